//! Which vector instructions to compute with, chosen once per engine at run time.

use crate::util::error::{Result, bail};

/// The environment variable that names the widest instruction set to use: to find out whether one is at fault, and to
/// see here what other machines do.
const VARIABLE: &str = "LIBDIFFUSION_CPU";

/// An instruction set that every operation has a path for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Simd {
    /// Plain Rust for any machine.
    Portable,
    /// What every x86-64 has.
    #[cfg(target_arch = "x86_64")]
    Sse2,
    /// AVX2 with FMA and F16C.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 F and what every processor with it has (AVX2, FMA, F16C).
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Simd {
    /// Every path that this machine can run, the slowest first.
    pub(super) fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut paths = vec![Simd::Portable];
        #[cfg(target_arch = "x86_64")]
        {
            paths.push(Simd::Sse2);
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                paths.push(Simd::Avx2);
            }
            if avx2 && is_x86_feature_detected!("avx512f") {
                paths.push(Simd::Avx512);
            }
        }
        paths
    }

    /// The fastest path that this machine can run and the environment allows.
    ///
    /// Fails with `InvalidArgument` if the variable names no instruction set.
    pub(super) fn detect() -> Result<Self> {
        match std::env::var_os(VARIABLE) {
            None => Self::fastest(None),
            Some(name) => Self::fastest(Some(&name.to_string_lossy())),
        }
    }

    /// The fastest path of this machine, none beyond the one named `most`.
    fn fastest(most: Option<&str>) -> Result<Self> {
        let fits: fn(Self) -> bool = match most.map(str::to_ascii_lowercase).as_deref() {
            None | Some("") => |_| true,
            Some("portable") => |path| path == Simd::Portable,
            #[cfg(target_arch = "x86_64")]
            Some("sse2") => |path| path <= Simd::Sse2,
            #[cfg(target_arch = "x86_64")]
            Some("avx2") => |path| path <= Simd::Avx2,
            #[cfg(target_arch = "x86_64")]
            Some("avx512") => |path| path <= Simd::Avx512,
            Some(other) => bail!(
                InvalidArgument,
                "environment variable {VARIABLE}: {other:?} is none of portable, sse2, avx2 and avx512"
            ),
        };
        Ok(Self::available().into_iter().rev().find(|&path| fits(path)).unwrap_or(Simd::Portable))
    }

    /// The name for people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Simd::Portable => "portable",
            #[cfg(target_arch = "x86_64")]
            Simd::Sse2 => "SSE2",
            #[cfg(target_arch = "x86_64")]
            Simd::Avx2 => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Simd::Avx512 => "AVX-512",
        }
    }
}

/// Whether `f32::mul_add` is one instruction on the portable path; elsewhere it would call a slow function.
pub(super) const PORTABLE_FMA: bool = cfg!(target_arch = "aarch64") || cfg!(target_feature = "fma");

/// Defines `fn name(simd, args)` that runs `body::<FMA>(args)`, an `#[inline(always)]` function in plain Rust,
/// compiled once for each instruction set: the compiler vectorises each for its own width.
macro_rules! vectorized {
    ($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),* $(,)?) = $body:ident) => {
        $(#[$doc])*
        $vis fn $name(simd: $crate::backend::cpu::simd::Simd, $($arg: $ty),*) {
            use $crate::backend::cpu::simd::{PORTABLE_FMA, Simd};
            match simd {
                Simd::Portable => $body::<PORTABLE_FMA>($($arg),*),
                #[cfg(target_arch = "x86_64")]
                Simd::Sse2 => $body::<PORTABLE_FMA>($($arg),*),
                #[cfg(target_arch = "x86_64")]
                Simd::Avx2 => {
                    #[target_feature(enable = "avx2,fma,f16c")]
                    fn avx2($($arg: $ty),*) {
                        $body::<true>($($arg),*);
                    }
                    // SAFETY: this variant exists only where the machine has these instructions.
                    unsafe { avx2($($arg),*) }
                }
                #[cfg(target_arch = "x86_64")]
                Simd::Avx512 => {
                    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
                    fn avx512($($arg: $ty),*) {
                        $body::<true>($($arg),*);
                    }
                    // SAFETY: as above.
                    unsafe { avx512($($arg),*) }
                }
            }
        }
    };
}

pub(super) use vectorized;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::util::error::Status;

    #[test]
    fn a_name_is_a_limit_not_a_promise() {
        let available = Simd::available();
        let best = *available.last().unwrap();
        for most in [None, Some("")] {
            assert_eq!(Simd::fastest(most).unwrap(), best);
        }
        assert_eq!(Simd::fastest(Some("portable")).unwrap(), Simd::Portable);
        #[cfg(target_arch = "x86_64")]
        for (name, path) in [("sse2", Simd::Sse2), ("AVX2", Simd::Avx2), ("avx512", Simd::Avx512)] {
            assert_eq!(Simd::fastest(Some(name)).unwrap(), path.min(best));
        }
        let error = Simd::fastest(Some("avx1024")).err().unwrap();
        assert_eq!(error.status(), Status::InvalidArgument);
        assert!(error.message().contains("LIBDIFFUSION_CPU") && error.message().contains("avx1024"));
    }
}
