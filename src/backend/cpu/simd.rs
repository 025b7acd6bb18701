//! Which vector instructions to compute with, chosen once per engine at run time.

/// The environment variable that names the widest instruction set to use: to find out whether one is at fault, and to
/// see here what other machines do.
const VARIABLE: &str = "LIBDIFFUSION_CPU";
/// What it can say on such a machine.
const NAMES: &str = if cfg!(target_arch = "x86_64") {
    "portable, sse2, avx2, avx512 and zen4"
} else if cfg!(target_arch = "aarch64") {
    "portable and neon"
} else {
    "portable"
};

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
    /// AVX-512 F and DQ, and what every processor with them has (AVX2, FMA, F16C).
    #[cfg(target_arch = "x86_64")]
    Avx512,
    /// The same on AMD's Zen 4, whose adders work beside its multiply-adders.
    #[cfg(target_arch = "x86_64")]
    Zen4,
    /// What every AArch64 has.
    #[cfg(target_arch = "aarch64")]
    Neon,
}

impl Simd {
    /// Every path that this machine can run, the slowest first but for those that [`Self::is_faster`] denies.
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
            if avx2 && is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512dq") {
                paths.push(Simd::Avx512);
                paths.push(Simd::Zen4);
            }
        }
        #[cfg(target_arch = "aarch64")]
        paths.push(Simd::Neon);
        paths
    }

    /// The fastest path that this machine can run and the environment allows.
    pub(super) fn detect() -> Self {
        Self::fastest(environment().as_deref().and_then(Self::named))
    }

    /// The fastest path of this machine, none beyond `most`.
    fn fastest(most: Option<Self>) -> Self {
        let fits = |path: &Self| path.is_faster() && most.is_none_or(|most| *path <= most);
        Self::available().into_iter().rev().find(fits).unwrap_or(Simd::Portable)
    }

    /// Whether it is faster here than the ones before it.
    fn is_faster(self) -> bool {
        #[cfg(target_arch = "x86_64")]
        if self == Simd::Zen4 {
            return is_zen4();
        }
        true
    }

    /// The one that the environment variable calls `name`.
    fn named(name: &str) -> Option<Self> {
        match name.to_ascii_lowercase().as_str() {
            "portable" => Some(Simd::Portable),
            #[cfg(target_arch = "x86_64")]
            "sse2" => Some(Simd::Sse2),
            #[cfg(target_arch = "x86_64")]
            "avx2" => Some(Simd::Avx2),
            #[cfg(target_arch = "x86_64")]
            "avx512" => Some(Simd::Avx512),
            #[cfg(target_arch = "x86_64")]
            "zen4" => Some(Simd::Zen4),
            #[cfg(target_arch = "aarch64")]
            "neon" => Some(Simd::Neon),
            _ => None,
        }
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
            #[cfg(target_arch = "x86_64")]
            Simd::Zen4 => "AVX-512 Zen 4",
            #[cfg(target_arch = "aarch64")]
            Simd::Neon => "NEON",
        }
    }
}

/// Whether AMD made this processor.
#[cfg(target_arch = "x86_64")]
pub(super) fn is_amd() -> bool {
    // SAFETY: every x86-64 has the instruction. Newer compilers know that.
    #[allow(unused_unsafe)]
    let vendor = unsafe { std::arch::x86_64::__cpuid(0) };
    [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).as_flattened() == b"AuthenticAMD"
}

/// Whether this is a Zen 3 or 4 of AMD, of which only the latter has AVX-512.
#[cfg(target_arch = "x86_64")]
fn is_zen4() -> bool {
    // SAFETY: as in `is_amd`.
    #[allow(unused_unsafe)]
    let version = unsafe { std::arch::x86_64::__cpuid(1).eax };
    let family = (version >> 8 & 0xf) + (version >> 20 & 0xff);
    is_amd() && family == 0x19
}

/// The variable's value; an empty one says nothing.
fn environment() -> Option<String> {
    std::env::var_os(VARIABLE).map(|name| name.to_string_lossy().into_owned()).filter(|name| !name.is_empty())
}

/// What to tell of a value that names no instruction set, and so limits nothing: the environment is the user's, and the
/// program must not fail for it.
pub fn ignored_environment() -> Option<String> {
    environment().and_then(|name| ignored(&name))
}

fn ignored(name: &str) -> Option<String> {
    Simd::named(name)
        .is_none()
        .then(|| format!("environment variable {VARIABLE}: {name:?} is none of {NAMES}, and is ignored"))
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
                Simd::Avx512 | Simd::Zen4 => {
                    #[target_feature(enable = "avx512f,avx2,fma,f16c")]
                    fn avx512($($arg: $ty),*) {
                        $body::<true>($($arg),*);
                    }
                    // SAFETY: as above.
                    unsafe { avx512($($arg),*) }
                }
                #[cfg(target_arch = "aarch64")]
                Simd::Neon => $body::<true>($($arg),*),
            }
        }
    };
}

pub(super) use vectorized;

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_limit_not_a_promise() {
        let best = Simd::fastest(None);
        assert!(Simd::available().contains(&best) && best.is_faster());
        assert_eq!(Simd::fastest(Simd::named("portable")), Simd::Portable);
        #[cfg(target_arch = "x86_64")]
        let paths =
            [("sse2", Simd::Sse2), ("AVX2", Simd::Avx2), ("avx512", Simd::Avx512), ("zen4", Simd::Zen4)];
        #[cfg(target_arch = "aarch64")]
        let paths = [("NEON", Simd::Neon)];
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let paths: [(&str, Simd); 0] = [];
        for (name, path) in paths {
            assert_eq!(Simd::fastest(Simd::named(name)), path.min(best));
            assert_eq!(ignored(name), None);
        }
        let message = ignored("avx1024").unwrap();
        assert!(message.contains("LIBDIFFUSION_CPU") && message.contains("avx1024"));
    }
}
