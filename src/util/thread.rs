//! Threads: the library's own, and what it asks of the host's while they are in a function of it.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Starts a thread of the library, with arithmetic as the standard has it and without the host's signals.
pub fn spawn(name: String, body: impl FnOnce() + Send + 'static) -> io::Result<JoinHandle<()>> {
    let _blocked = BlockedSignals::new();
    Builder::new().name(name).spawn(move || {
        let _arithmetic = Arithmetic::standard();
        body();
    })
}

/// Keeps the library in the process: a host may unload it while threads run its code. On Linux the file says so itself,
/// by `-z nodelete`.
#[cfg(windows)]
pub fn stay_loaded() {
    use std::ffi::c_void;

    #[link(name = "kernel32")]
    unsafe extern "system" {
        fn GetModuleHandleExW(flags: u32, inside: *const c_void, module: *mut *mut c_void) -> i32;
    }
    const PIN: u32 = 1;
    const FROM_ADDRESS: u32 = 4;
    let mut module = std::ptr::null_mut();
    // SAFETY: the address is within this module; the handle is only written.
    let _ = unsafe { GetModuleHandleExW(PIN | FROM_ADDRESS, stay_loaded as *const c_void, &raw mut module) };
}

#[cfg(not(windows))]
pub fn stay_loaded() {}

/// Arithmetic as the standard has it (rounding to nearest, subnormal numbers, no traps) until it is dropped, on this
/// thread; then as it was. A host may want it otherwise, and threads inherit it: a division by zero that is meant would
/// then end the process, and pictures would depend on who made the engine.
pub struct Arithmetic {
    #[cfg(target_arch = "x86_64")]
    before: u32,
    #[cfg(target_arch = "aarch64")]
    before: u64,
}

#[cfg(target_arch = "x86_64")]
impl Arithmetic {
    /// MXCSR when a process starts: all exceptions masked.
    const STANDARD: u32 = 0x1F80;
    /// Its bits that say which exceptions there were.
    const STICKY: u32 = 0x3F;

    pub fn standard() -> Self {
        let mut before = 0;
        // SAFETY: every x86-64 has the register; the instruction writes four bytes.
        unsafe {
            std::arch::asm!("stmxcsr [{}]", in(reg) &raw mut before, options(nostack, preserves_flags))
        };
        let arithmetic = Self { before };
        if arithmetic.differs() {
            Self::set(Self::STANDARD);
        }
        arithmetic
    }

    fn differs(&self) -> bool {
        self.before & !Self::STICKY != Self::STANDARD
    }

    fn set(value: u32) {
        // SAFETY: the value is the standard's or came from the register; the instruction reads four bytes.
        unsafe {
            std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags, readonly));
        }
    }
}

#[cfg(target_arch = "aarch64")]
impl Arithmetic {
    /// FPCR when a process starts.
    const STANDARD: u64 = 0;

    pub fn standard() -> Self {
        let before;
        // SAFETY: every AArch64 has the register.
        unsafe { std::arch::asm!("mrs {}, fpcr", out(reg) before, options(nomem, nostack, preserves_flags)) };
        let arithmetic = Self { before };
        if arithmetic.differs() {
            Self::set(Self::STANDARD);
        }
        arithmetic
    }

    fn differs(&self) -> bool {
        self.before != Self::STANDARD
    }

    fn set(value: u64) {
        // SAFETY: the value is the standard's or came from the register.
        unsafe { std::arch::asm!("msr fpcr, {}", in(reg) value, options(nostack, preserves_flags)) };
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
impl Drop for Arithmetic {
    fn drop(&mut self) {
        if self.differs() {
            Self::set(self.before);
        }
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
impl Arithmetic {
    pub fn standard() -> Self {
        Self {}
    }
}

/// While it lives, threads that this one starts take no signals but those of their own faults and of profilers: a host
/// that waits for a signal gets it, and no handler runs where it is not expected.
struct BlockedSignals {
    #[cfg(unix)]
    before: libc::sigset_t,
}

#[cfg(unix)]
impl BlockedSignals {
    fn new() -> Self {
        const KEPT: [libc::c_int; 8] = [
            libc::SIGSEGV,
            libc::SIGBUS,
            libc::SIGFPE,
            libc::SIGILL,
            libc::SIGTRAP,
            libc::SIGABRT,
            libc::SIGSYS,
            libc::SIGPROF,
        ];
        // SAFETY: the sets are initialised by the first call on each; none of the calls can fail with these arguments.
        unsafe {
            let (mut all, mut before) = (std::mem::zeroed(), std::mem::zeroed());
            libc::sigfillset(&raw mut all);
            for signal in KEPT {
                libc::sigdelset(&raw mut all, signal);
            }
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut before);
            Self { before }
        }
    }
}

#[cfg(unix)]
impl Drop for BlockedSignals {
    fn drop(&mut self) {
        // SAFETY: the set is the one that the thread had.
        unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut()) };
    }
}

#[cfg(not(unix))]
impl BlockedSignals {
    fn new() -> Self {
        Self {}
    }
}
