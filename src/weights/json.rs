//! JSON files: configs and shard indices.

use std::path::Path;

use serde::de::DeserializeOwned;

use crate::util::error::{Error, Result, bail, error};
use crate::util::file::read_text;
use crate::util::limits;

/// Reads a JSON file that holds an object.
///
/// # Errors
/// `NotFound`, `Io`, or `Format` for a file that is too long, not JSON, or not a `T`; the message names the file
/// and the key at fault.
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = read_text(path, limits::CONFIG_BYTES)?;
    // serde would take a list for a struct, field by field.
    if !text.trim_start().starts_with('{') {
        bail!(Format, "{}: not a JSON object", path.display());
    }
    serde_json::from_str(&text).map_err(|e| parse_error(path, &text, &e))
}

/// Names the key whose value the parser stopped at: serde tells the position only.
fn parse_error(path: &Path, text: &str, cause: &serde_json::Error) -> Error {
    let line_start =
        text.split_inclusive('\n').take(cause.line().saturating_sub(1)).map(str::len).sum::<usize>();
    let mut end = (line_start + cause.column()).min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    match last_key(&text[..end]) {
        Some(key) if cause.is_data() => error!(Format, "{}: {key}: {cause}", path.display()),
        _ => error!(Format, "{}: {cause}", path.display()),
    }
}

/// The last `"key":` in a piece of JSON.
fn last_key(text: &str) -> Option<&str> {
    let mut rest = text;
    while let Some((before, _)) = rest.rsplit_once(':') {
        if let Some(inner) = before.trim_end().strip_suffix('"') {
            return inner.rsplit_once('"').map(|(_, key)| key);
        }
        rest = before;
    }
    None
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::util::error::Status;
    use crate::weights::tests::TempDir;

    #[derive(Debug, serde::Deserialize)]
    #[serde(default)]
    struct Config {
        width: usize,
        name: Option<String>,
    }

    impl Default for Config {
        fn default() -> Self {
            Self { width: 7, name: None }
        }
    }

    fn read(text: &[u8]) -> Result<Config> {
        let dir = TempDir::new();
        dir.write("config.json", text);
        read_json(&dir.path().join("config.json"))
    }

    #[test]
    fn defaults_fill_in_and_unknown_keys_pass() {
        let config = read(br#"{"name": "a", "other": [1, {"b": null}]}"#).unwrap();
        assert_eq!((config.width, config.name.as_deref()), (7, Some("a")));
    }

    #[test]
    fn a_wrong_type_names_file_and_key() {
        for text in
            [&br#"{"name": "a", "width": "x", "z": 1}"#[..], b"{\n \"name\": null,\n \"width\": -3\n}"]
        {
            let error = read(text).unwrap_err();
            assert_eq!(error.status(), Status::Format);
            assert!(error.message().contains("config.json: width: "), "{error}");
        }
    }

    #[test]
    fn what_is_not_json_is_a_format_error() {
        for text in [&b"{"[..], b"", b"\xff\xfe{}", b"[1]", b"{} x"] {
            let error = read(text).unwrap_err();
            assert_eq!(error.status(), Status::Format, "{error}");
            assert!(error.message().contains("config.json"), "{error}");
        }
    }

    #[test]
    fn a_file_over_the_limit_is_refused() {
        let mut text = b"{}".to_vec();
        text.resize(limits::CONFIG_BYTES as usize, b' ');
        assert!(read(&text).is_ok());
        text.push(b' ');
        let error = read(&text).unwrap_err();
        assert_eq!(error.status(), Status::Format);
        assert!(error.message().contains("longer than"), "{error}");
    }

    #[test]
    fn a_missing_file_is_not_found() {
        let error = read_json::<Config>(Path::new("/nowhere/config.json")).unwrap_err();
        assert_eq!(error.status(), Status::NotFound);
        assert!(error.message().contains("/nowhere/config.json"), "{error}");
    }
}
