//! Reading small files whole.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::Path;

use super::error::{Error, Result, bail, error};

/// Reads a UTF-8 text file of at most `limit` bytes.
///
/// Errors name the file: `NotFound`, `Io`, or `Format` when it is longer than `limit` or not UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    let file = open(path)?;
    let mut bytes = Vec::new();
    // One byte more than allowed, so that a file that grows while it is read is caught as well.
    file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| io_error(path, &e))?;
    if bytes.len() as u64 > limit {
        bail!(Format, "{}: longer than {limit} bytes", path.display());
    }
    match String::from_utf8(bytes) {
        Ok(text) => Ok(text),
        Err(_) => bail!(Format, "{}: not UTF-8 text", path.display()),
    }
}

/// Opens a regular file to read it. Of other kinds a pipe would make the caller wait for a writer.
///
/// Errors name the file: `NotFound`, or `Io`.
pub fn open(path: &Path) -> Result<File> {
    let metadata = fs::metadata(path).map_err(|e| io_error(path, &e))?;
    if !metadata.is_file() {
        bail!(Io, "{}: not a file", path.display());
    }
    File::open(path).map_err(|e| io_error(path, &e))
}

/// The error for a file that the operating system would not give us: `NotFound` or `Io`, naming it.
pub fn io_error(path: &Path, cause: &io::Error) -> Error {
    match cause.kind() {
        ErrorKind::NotFound => error!(NotFound, "{}: the file does not exist", path.display()),
        _ => error!(Io, "{}: {cause}", path.display()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::util::error::Status;

    #[test]
    fn errors_name_the_file() {
        let path = std::env::temp_dir().join(format!("libdiffusion-file-{}.txt", std::process::id()));
        let fails = |limit: u64, status: Status| {
            let error = read_text(&path, limit).unwrap_err();
            assert_eq!(error.status(), status, "{error}");
            assert!(error.message().contains("libdiffusion-file-"), "{error}");
        };
        fails(9, Status::NotFound);
        fs::write(&path, "123456789").unwrap();
        assert_eq!(read_text(&path, 9).unwrap(), "123456789");
        fails(8, Status::Format);
        fs::write(&path, [b'a', 0xFF]).unwrap();
        fails(9, Status::Format);
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fails(9, Status::Io);
        fs::remove_dir(&path).unwrap();
        if cfg!(unix) {
            assert!(std::process::Command::new("mkfifo").arg(&path).status().unwrap().success());
            fails(9, Status::Io);
            fs::remove_file(&path).unwrap();
        }
    }
}
