//! Which vector instructions to compute with, chosen once per engine at run time.

/// An instruction set that every operation has a path for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

    /// The fastest path that this machine can run.
    pub(super) fn detect() -> Self {
        Self::available().pop().unwrap_or(Simd::Portable)
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
