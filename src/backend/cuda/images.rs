//! Compiled kernels: those that the library brings, or the compiler's.

use std::io::Read;

use super::library::Search;
use super::nvrtc;
use crate::util::error::{Result, bail};
use crate::util::log::Log;

/// What `make kernels` wrote, if it was run before the library was built; else nothing. Little-endian:
///
/// - the magic number and a hash of the sources, which build.rs has checked
/// - the number of images (u32), and of each the length of its name (u8), its name `gemm.sm_80`, its length (u32) and
///   its length under zlib (u32)
/// - the images under zlib, in this order
static PACK: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.pack"));
const MAGIC: &[u8; 8] = b"LDKPACK1";

/// A family's kernels as the driver takes them.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Image {
    Cubin(Vec<u8>),
    /// Text, without a final zero.
    Ptx(String),
}

/// Where images come from.
pub(super) struct Images {
    search: Search,
    log: Log,
    pack: &'static [u8],
}

impl Images {
    /// NVRTC is looked for with `search`, if it is needed.
    pub(super) fn new(search: &Search, log: &Log) -> Self {
        Self { search: search.clone(), log: log.clone(), pack: PACK }
    }

    /// The image of `kernels/<family>.cu` for an architecture such as 80: from the library, else compiled by NVRTC (or
    /// kept from the last time), else the library's PTX, which the driver compiles.
    ///
    /// # Errors
    /// `Unsupported`, with what to install, when there is none of these; `Internal` for kernels that do not compile.
    pub(super) fn image(&self, family: &'static str, architecture: u32) -> Result<Image> {
        let entries = entries(self.pack)?;
        if let Some(entry) = choose(&entries, family, architecture) {
            return Ok(Image::Cubin(entry.unpack()?));
        }
        let missing = match nvrtc::image(&self.search, family, architecture, &self.log) {
            Ok(cubin) => return Ok(Image::Cubin(cubin)),
            Err(error) => error,
        };
        let ptx = entries.iter().find(|entry| entry.family == family && entry.target.starts_with("compute_"));
        let Some(ptx) = ptx else {
            let (major, minor) = (architecture / 10, architecture % 10);
            return Err(
                missing.context(format!("this build has no kernels for compute capability {major}.{minor}"))
            );
        };
        self.log.info(format_args!("cuda: {family}: the driver compiles PTX, since {missing}"));
        let text = String::from_utf8(ptx.unpack()?);
        text.map(|text| Image::Ptx(text.trim_end_matches('\0').to_owned())).or_else(|_| damaged())
    }
}

/// An image in the pack.
#[derive(Debug, Clone, Copy)]
struct Entry<'a> {
    family: &'a str,
    /// `sm_80`, or `compute_80` for PTX.
    target: &'a str,
    len: usize,
    compressed: &'a [u8],
}

impl Entry<'_> {
    fn unpack(&self) -> Result<Vec<u8>> {
        let mut image = Vec::with_capacity(self.len);
        let decoder = flate2::read::ZlibDecoder::new(self.compressed);
        match decoder.take(self.len as u64 + 1).read_to_end(&mut image) {
            Ok(len) if len == self.len => Ok(image),
            _ => damaged(),
        }
    }
}

fn damaged<T>() -> Result<T> {
    bail!(Internal, "the kernels in this library are damaged; build it again after `make kernels`")
}

/// What a pack holds. An empty one holds nothing.
fn entries(pack: &[u8]) -> Result<Vec<Entry<'_>>> {
    if pack.is_empty() {
        return Ok(Vec::new());
    }
    parse(pack).map_or_else(damaged, Ok)
}

fn parse(pack: &[u8]) -> Option<Vec<Entry<'_>>> {
    let mut rest = pack.strip_prefix(MAGIC)?.get(8..)?;
    let count = number(&mut rest)?;
    let mut heads = Vec::new();
    for _ in 0..count {
        let (&name_len, after) = rest.split_first()?;
        let (name, after) = after.split_at_checked(usize::from(name_len))?;
        rest = after;
        let (family, target) = std::str::from_utf8(name).ok()?.rsplit_once('.')?;
        heads.push((family, target, number(&mut rest)?, number(&mut rest)?));
    }
    let mut entries = Vec::new();
    for (family, target, len, compressed_len) in heads {
        let (compressed, after) = rest.split_at_checked(compressed_len)?;
        rest = after;
        entries.push(Entry { family, target, len, compressed });
    }
    rest.is_empty().then_some(entries)
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let (bytes, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_le_bytes(*bytes) as usize)
}

/// Machine code that runs on the architecture: of the same major version, and the highest minor one that is not above.
/// Code for `sm_90a` runs on 9.0 alone.
fn choose<'a, 'b>(entries: &'a [Entry<'b>], family: &str, architecture: u32) -> Option<&'a Entry<'b>> {
    let minor = |entry: &Entry<'_>| {
        let target = entry.target.strip_prefix("sm_")?;
        if let Some(exact) = target.strip_suffix('a') {
            return exact.parse().ok().filter(|&exact: &u32| exact == architecture).map(|exact| exact % 10);
        }
        let target: u32 = target.parse().ok()?;
        (target / 10 == architecture / 10 && target <= architecture).then_some(target % 10)
    };
    entries
        .iter()
        .filter(|entry| entry.family == family && minor(entry).is_some())
        .max_by_key(|entry| minor(entry))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::util::error::Status;

    fn pack(images: &[(&str, &[u8])]) -> Vec<u8> {
        let mut pack = [&MAGIC[..], &[7; 8], &(images.len() as u32).to_le_bytes()].concat();
        let mut data = Vec::new();
        for (name, image) in images {
            let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
            encoder.write_all(image).unwrap();
            let compressed = encoder.finish().unwrap();
            pack.push(name.len() as u8);
            pack.extend(name.bytes());
            pack.extend((image.len() as u32).to_le_bytes());
            pack.extend((compressed.len() as u32).to_le_bytes());
            data.extend(compressed);
        }
        [pack, data].concat()
    }

    fn images(pack: Vec<u8>) -> Images {
        Images { search: Search::default(), log: Log::off(), pack: pack.leak() }
    }

    #[test]
    fn the_nearest_code_of_the_same_major_version_is_chosen() {
        let names = ["sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120", "compute_80"];
        let all: Vec<(String, &[u8])> =
            names.iter().map(|target| (format!("gemm.{target}"), target.as_bytes())).collect();
        let all: Vec<(&str, &[u8])> = all.iter().map(|(name, image)| (name.as_str(), *image)).collect();
        let images = images(pack(&all));
        for (architecture, target) in [
            (80, "sm_80"),
            (86, "sm_86"),
            (87, "sm_86"),
            (89, "sm_89"),
            (90, "sm_90"),
            (100, "sm_100"),
            (103, "sm_100"),
            (120, "sm_120"),
            (121, "sm_120"),
        ] {
            let image = images.image("gemm", architecture).unwrap();
            assert_eq!(image, Image::Cubin(target.as_bytes().to_vec()), "{architecture}");
        }
        let pack = pack(&[("gemm_sm90a.sm_90a", b"x")]);
        let entries = parse(&pack).unwrap();
        let chosen = |architecture| choose(&entries, "gemm_sm90a", architecture).is_some();
        assert_eq!([80, 89, 90, 91, 100].map(chosen), [false, false, true, false, false]);
    }

    #[test]
    fn a_damaged_pack_is_an_error() {
        let whole = pack(&[("gemm.sm_80", b"some machine code"), ("norm.sm_80", b"more of it")]);
        assert_eq!(parse(&whole).unwrap().len(), 2);
        for len in 1..whole.len() {
            let error = images(whole[..len].to_vec()).image("gemm", 80).unwrap_err();
            assert_eq!(error.status(), Status::Internal, "{len} bytes");
        }
        let mut changed = whole.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(images(changed).image("norm", 80).unwrap_err().status(), Status::Internal);
    }
}
