//! Turns panics into errors.
//!
//! A panic is a bug of ours, and a host must survive it: [`catch`] stands at every place where the outside
//! world calls in and at the root of every thread of the library.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, PanicHookInfo};
use std::sync::Once;

use super::error::{Result, error};

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static LOCATION: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Runs `work` and returns its result, or an `Internal` error if it panicked. The error carries the panic's
/// message and, where [`install_hook`] ran, `file:line`.
///
/// Whatever `work` had borrowed may be half changed after an error: use it no further.
pub fn catch<T>(work: impl FnOnce() -> T) -> Result<T> {
    let outer = GUARDED.replace(true);
    let result = std::panic::catch_unwind(AssertUnwindSafe(work));
    GUARDED.set(outer);
    result.map_err(|payload| {
        let location = LOCATION.take();
        match location {
            Some(location) => error!(Internal, "panic at {location}: {}", text(payload.as_ref())),
            None => error!(Internal, "panic: {}", text(payload.as_ref())),
        }
    })
}

/// Makes panics inside [`catch`] silent, and their location known. Other panics go to the hook that was there
/// before. For the C boundary only: in a shared library the hook is the library's own, while in a Rust program
/// it is the program's.
pub fn install_hook() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info: &PanicHookInfo<'_>| {
            if GUARDED.try_with(Cell::get).unwrap_or(false) {
                let location = info.location().map(|at| format!("{}:{}", at.file(), at.line()));
                let _ = LOCATION.try_with(|slot| slot.replace(location));
            } else {
                previous(info);
            }
        }));
    });
}

fn text(payload: &(dyn Any + Send)) -> String {
    let text = payload
        .downcast_ref::<&str>()
        .map(|s| (*s).to_owned())
        .or_else(|| payload.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "(no message)".to_owned());
    text.replace('\n', " ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::util::error::Status;

    #[test]
    fn a_panic_becomes_an_error_with_its_place() {
        install_hook();
        let line = line!() + 1;
        let error = catch(|| panic!("seven\nof {}", 9)).unwrap_err();
        assert_eq!(error.status(), Status::Internal);
        assert_eq!(error.message(), format!("panic at src/util/panic.rs:{line}: seven of 9"));
        assert!(matches!(catch(|| 3), Ok(3)));
    }

    #[test]
    fn an_inner_guard_leaves_the_outer_one_in_place() {
        install_hook();
        let outer: Result<()> = catch(|| {
            let _ = catch(|| panic!("inner"));
            panic!("outer");
        });
        assert!(outer.unwrap_err().message().contains("/panic.rs:"));
    }
}
