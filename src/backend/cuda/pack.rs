//! The pack of compiled kernels that tools/kernels.py writes. build.rs, which takes this file in too, embeds it if it is
//! of the kernels that are there; `images` reads it. Little-endian:
//!
//! - the magic number, and [`Fnv`] of the kernels' names and texts
//! - the number of images (u32), and of each the length of its name (u8), its name `gemm.sm_80`, its length (u32) and
//!   its length under zlib (u32)
//! - the images under zlib, in this order

const MAGIC: &[u8; 8] = b"LDKPACK1";

/// An image in a pack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub(super) family: &'a str,
    /// `sm_80`, or `compute_80` for PTX.
    pub(super) target: &'a str,
    /// Bytes when it is unpacked.
    pub(super) len: usize,
    pub(super) compressed: &'a [u8],
}

/// The hash of the sources and the images; `None` if this is no pack, or not a whole one.
pub(super) fn parse(pack: &[u8]) -> Option<(u64, Vec<Entry<'_>>)> {
    let (sources, mut rest) = pack.strip_prefix(MAGIC)?.split_first_chunk::<8>()?;
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
    rest.is_empty().then_some((u64::from_le_bytes(*sources), entries))
}

fn number(rest: &mut &[u8]) -> Option<usize> {
    let (bytes, after) = rest.split_first_chunk::<4>()?;
    *rest = after;
    Some(u32::from_le_bytes(*bytes) as usize)
}

/// FNV-1a (Fowler, Noll and Vo) of parts, each with a zero behind it. It tells apart what differs by accident; whoever
/// would forge a pack or a kept image may as well change the library.
pub(super) struct Fnv(pub(super) u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        for byte in bytes.iter().chain(&[0]) {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    /// What `write_pack` of tools/kernels.py makes of two images `abc` and `hello hello hello`, with a hash of 7.
    const WRITTEN: &[u8] = b"LDKPACK1\x07\0\0\0\0\0\0\0\x02\0\0\0\
        \x0agemm.sm_80\x03\0\0\0\x0b\0\0\0\
        \x0fnorm.compute_80\x11\0\0\0\x10\0\0\0\
        x\xdaKLJ\x06\0\x02M\x01'\
        x\xda\xcbH\xcd\xc9\xc9W\xc8@\x90\0:.\x06}";

    #[test]
    fn a_pack_of_the_tool_is_read() {
        let (sources, entries) = parse(WRITTEN).unwrap();
        assert_eq!(sources, 7);
        let found: Vec<_> = entries.iter().map(|entry| (entry.family, entry.target, entry.len)).collect();
        assert_eq!(found, [("gemm", "sm_80", 3), ("norm", "compute_80", 17)]);
        assert_eq!(entries[1].unpack().unwrap(), b"hello hello hello");
    }

    #[test]
    fn what_is_not_whole_is_no_pack() {
        for len in 0..WRITTEN.len() {
            assert_eq!(parse(&WRITTEN[..len]), None, "{len} bytes");
        }
        assert_eq!(parse(&[WRITTEN, b"x"].concat()), None);
        let mut another = WRITTEN.to_vec();
        another[7] = b'2';
        assert_eq!(parse(&another), None);
    }

    /// The published values, of which ours end in one zero more.
    #[test]
    fn fnv_is_fnv() {
        let mut hash = Fnv::default();
        hash.add(b"foobar");
        assert_eq!(hash.0, 0x8594_4171_f739_67e8_u64.wrapping_mul(0x0100_0000_01b3));
    }
}
