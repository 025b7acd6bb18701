//! One memory-mapped safetensors file.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use memmap2::Mmap;
use safetensors::SafeTensors;
use safetensors::tensor::Metadata;
use serde::Deserializer as _;
use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};

use crate::util::error::{Result, bail, error};
use crate::util::file::{io_error, open};
use crate::util::limits;

/// Bytes of the number that starts the file: the header's length.
const PREFIX: usize = 8;
/// Bytes of tensors handed out before the file's pages are let go of: what a load needs beside the prepared weights.
const RESIDENT: usize = 64 << 20;

/// A safetensors file whose header has been checked: every tensor lies inside the file.
pub(super) struct MappedFile {
    pub(super) path: PathBuf,
    map: Mmap,
    /// Where the tensors' data begins.
    data: usize,
    /// Bytes handed out since the pages were let go of.
    resident: AtomicUsize,
}

impl MappedFile {
    /// Maps `path` and checks its header: sizes multiply without overflow, offsets are contiguous and end with
    /// the file, no name comes twice.
    pub(super) fn open(path: &Path) -> Result<(Self, Metadata)> {
        let name = path.display();
        let file = open(path)?;
        let metadata = file.metadata().map_err(|e| io_error(path, &e))?;
        if metadata.len() < PREFIX as u64 {
            bail!(Format, "{name}: {} bytes are too few for a safetensors file", metadata.len());
        }
        // SAFETY: the map is read-only, and its bytes are only ever read as integers, for which every
        // bit pattern is valid. A program that rewrites the file meanwhile can change the values we read, and one
        // that truncates it can stop the process (as with any mapped file); the map lives for the load only, since
        // backends copy what they prepare.
        let map = unsafe { Mmap::map(&file) }.map_err(|e| io_error(path, &e))?;

        let prefix = map.first_chunk::<PREFIX>().copied().unwrap_or_default();
        let header = u64::from_le_bytes(prefix);
        let room = (map.len() - PREFIX) as u64;
        if header > limits::SAFETENSORS_HEADER_BYTES {
            bail!(Format, "{name}: not a safetensors file (a header of {header} bytes is over the limit)");
        }
        if header > room {
            bail!(
                Format,
                "{name}: truncated: the header has {header} bytes, the file {room} after its length"
            );
        }
        let (header, tensors) =
            SafeTensors::read_metadata(&map).map_err(|e| error!(Format, "{name}: {e}"))?;
        let data = PREFIX + header;
        refuse_duplicates(map.get(PREFIX..data).unwrap_or_default())
            .map_err(|e| error!(Format, "{name}: {e}"))?;
        Ok((Self { path: path.to_owned(), map, data, resident: AtomicUsize::new(0) }, tensors))
    }

    /// The bytes of a tensor from its offsets in the header.
    pub(super) fn bytes(&self, (start, end): (usize, usize)) -> Option<&[u8]> {
        let bytes = self.map.get(self.data..)?.get(start..end)?;
        if self.resident.fetch_add(bytes.len(), Ordering::Relaxed) > RESIDENT {
            self.resident.store(bytes.len(), Ordering::Relaxed);
            self.release();
        }
        Some(bytes)
    }

    /// Lets go of the pages read so far. Backends have copied what was on them, and would otherwise hold a large
    /// file in memory twice.
    fn release(&self) {
        #[cfg(unix)]
        // SAFETY: the map is of a file and is never written to, so pages that are needed again come back from the
        // file with the same bytes. The call is advice: its failure changes nothing.
        let _ = unsafe { self.map.unchecked_advise(memmap2::UncheckedAdvice::DontNeed) };
    }
}

/// The safetensors crate keeps the last of two equal names; such a file was tampered with.
fn refuse_duplicates(header: &[u8]) -> serde_json::Result<()> {
    struct Names;
    impl<'de> Visitor<'de> for Names {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> std::result::Result<(), A::Error> {
            let mut names = HashSet::new();
            while let Some(name) = map.next_key::<String>()? {
                map.next_value::<IgnoredAny>()?;
                if names.contains(&name) {
                    return Err(A::Error::custom(format!("tensor {name} comes twice in the header")));
                }
                names.insert(name);
            }
            Ok(())
        }
    }
    serde_json::Deserializer::from_slice(header).deserialize_map(Names)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_the_same_after_a_release() {
        let path = crate::testing::root().join("models/emoji-64/vae/diffusion_pytorch_model.safetensors");
        let (file, tensors) = MappedFile::open(&path).unwrap();
        let largest = tensors.tensors().into_values().max_by_key(|t| t.data_offsets.1 - t.data_offsets.0);
        let offsets = largest.unwrap().data_offsets;
        let before = file.bytes(offsets).unwrap().to_vec();
        file.release();
        assert_eq!(file.bytes(offsets).unwrap(), before);
        // What was handed out adds up, and starts anew past the limit.
        file.resident.store(RESIDENT, Ordering::Relaxed);
        assert_eq!(file.bytes(offsets).unwrap(), before);
        assert_eq!(file.resident.load(Ordering::Relaxed), RESIDENT + before.len());
        assert_eq!(file.bytes(offsets).unwrap(), before);
        assert_eq!(file.resident.load(Ordering::Relaxed), before.len());
    }
}
