//! Checkpoints that are as they should be, and checkpoints damaged in every way we know.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Checkpoint, Spread};
use crate::backend::DType;
use crate::util::error::{Result, Status};

/// A folder that is deleted when dropped.
pub(crate) struct TempDir(PathBuf);

impl TempDir {
    pub(crate) fn new() -> Self {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("diffusion-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    pub(crate) fn write(&self, name: &str, bytes: &[u8]) {
        fs::write(self.0.join(name), bytes).unwrap();
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// One tensor of a file under test.
struct TestTensor {
    name: &'static str,
    dtype: &'static str,
    shape: Vec<usize>,
    bytes: Vec<u8>,
}

/// A tensor of `f32` values.
fn f32s(name: &'static str, shape: &[usize], values: &[f32]) -> TestTensor {
    let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect();
    TestTensor { name, dtype: "F32", shape: shape.to_vec(), bytes }
}

/// A tensor of 16-bit patterns.
fn u16s(name: &'static str, dtype: &'static str, bits: &[u16]) -> TestTensor {
    let bytes = bits.iter().flat_map(|v| v.to_le_bytes()).collect();
    TestTensor { name, dtype, shape: vec![bits.len()], bytes }
}

/// A header's length, the header, the data.
fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(header.as_bytes());
    file.extend_from_slice(data);
    file
}

fn entry(name: &str, dtype: &str, shape: &[usize], offsets: [usize; 2]) -> String {
    format!(r#""{name}":{{"dtype":"{dtype}","shape":{shape:?},"data_offsets":{offsets:?}}}"#)
}

fn safetensors(tensors: &[TestTensor]) -> Vec<u8> {
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for tensor in tensors {
        let start = data.len();
        data.extend_from_slice(&tensor.bytes);
        entries.push(entry(tensor.name, tensor.dtype, &tensor.shape, [start, data.len()]));
    }
    with_header(&format!("{{{}}}", entries.join(",")), &data)
}

/// A folder with `model.safetensors`.
fn folder(bytes: &[u8]) -> TempDir {
    let dir = TempDir::new();
    dir.write("model.safetensors", bytes);
    dir
}

fn open(dir: &TempDir) -> Result<Checkpoint> {
    Checkpoint::open(dir.path(), "model", None)
}

/// Asserts the status and that the message names everything in `named`, on one line.
fn refused<T>(result: Result<T>, status: Status, named: &[&str]) {
    let Err(error) = result else { panic!("accepted, though {named:?}") };
    assert_eq!(error.status(), status, "{error}");
    for name in named {
        assert!(error.message().contains(name), "{error}: does not name {name}");
    }
    assert!(!error.message().contains('\n'), "{error}");
}

#[test]
fn tensors_are_read_by_path_and_counted() {
    let dir = folder(&safetensors(&[
        f32s("a.0.weight", &[2, 2], &[1.0, 2.0, 3.0, 4.0]),
        u16s("a.0.bias", "BF16", &[0x3f80, 0x4000]),
        u16s("half", "F16", &[0x3c00]),
        TestTensor { name: "x.position_ids", dtype: "I64", shape: vec![1], bytes: vec![0; 8] },
    ]));
    let checkpoint = open(&dir).unwrap();
    let scope = checkpoint.root().at("a").at(0);
    let weight = scope.tensor("weight", &[2, 2]).unwrap();
    assert_eq!((weight.dtype, weight.shape), (DType::F32, &[2, 2][..]));
    assert_eq!(weight.bytes[12..], 4.0f32.to_le_bytes());
    assert_eq!(scope.tensor("bias", &[2]).unwrap().dtype, DType::Bf16);
    assert!(checkpoint.root().contains("half") && !scope.contains("half"));
    refused(checkpoint.finish(), Status::Format, &["model.safetensors", "half"]);
    assert_eq!(checkpoint.root().tensor("half", &[1]).unwrap().bytes, [0x00, 0x3c]);
    checkpoint.finish().unwrap();
    assert_eq!((checkpoint.parameters(), checkpoint.weight_bytes()), (7, 22));
}

#[test]
fn one_by_one_convolutions_are_matrices() {
    let six = [0.5; 6];
    let dir = folder(&safetensors(&[
        f32s("two", &[2, 3], &six),
        f32s("three", &[2, 3, 1], &six),
        f32s("four", &[2, 3, 1, 1], &six),
        f32s("wide", &[2, 1, 1, 3], &six),
        f32s("flat", &[6], &six),
    ]));
    let checkpoint = open(&dir).unwrap();
    let root = checkpoint.root();
    for name in ["two", "three", "four"] {
        assert_eq!(root.matrix(name, 2, 3).unwrap().shape, [2, 3], "{name}");
    }
    for name in ["wide", "flat"] {
        refused(root.matrix(name, 2, 3), Status::Format, &[name, "[2, 3]"]);
    }
    refused(root.tensor("four", &[2, 3]), Status::Format, &["four", "[2, 3, 1, 1]", "[2, 3]"]);
    refused(root.matrix("two", 3, 2), Status::Format, &["two"]);
}

#[test]
fn missing_misshapen_and_extra_tensors_are_named() {
    let dir = folder(&safetensors(&[
        f32s("a.weight", &[2], &[1.0, 2.0]),
        f32s("b", &[1], &[1.0]),
        f32s("c", &[0], &[]),
        f32s("d", &[1], &[1.0]),
        f32s("e", &[1], &[1.0]),
    ]));
    let checkpoint = open(&dir).unwrap();
    let a = checkpoint.root().at("a");
    refused(a.tensor("bias", &[7, 3]), Status::Format, &["model.safetensors", "a.bias", "[7, 3]", "missing"]);
    refused(a.tensor("weight", &[3]), Status::Format, &["model.safetensors", "a.weight", "[2]", "[3]"]);
    a.tensor("weight", &[2]).unwrap();
    refused(checkpoint.finish(), Status::Format, &["b, c, d", "1 more"]);
}

#[test]
fn values_that_are_not_finite_are_named() {
    let bad: [(TestTensor, usize); 6] = [
        (f32s("w", &[2], &[1.0, f32::NAN]), 2),
        (f32s("w", &[2], &[f32::NEG_INFINITY, 0.0]), 2),
        (u16s("w", "F16", &[0x7c00]), 1),
        (u16s("w", "F16", &[0x3c00, 0xfe01]), 2),
        (u16s("w", "BF16", &[0xff80]), 1),
        (u16s("w", "BF16", &[0x7fc0]), 1),
    ];
    for (tensor, length) in bad {
        let dir = folder(&safetensors(&[tensor]));
        let checkpoint = open(&dir).unwrap();
        let result = checkpoint.root().tensor("w", &[length]);
        refused(result.map(|_| ()), Status::Numeric, &["model.safetensors", "tensor w"]);
    }
    let largest = folder(&safetensors(&[
        f32s("a", &[1], &[f32::MAX]),
        u16s("b", "F16", &[0x7bff, 0x0001]),
        u16s("c", "BF16", &[0x7f7f, 0x7c00]),
    ]));
    let checkpoint = open(&largest).unwrap();
    for (name, length) in [("a", 1), ("b", 2), ("c", 2)] {
        assert!(checkpoint.root().tensor(name, &[length]).is_ok(), "{name}");
    }
}

#[test]
fn every_part_of_a_large_tensor_is_checked() {
    // More than two parts, the last of one value.
    let length = (1 << 18) + 1;
    let check = |bad: Option<usize>, spread: Option<Spread>| {
        let mut values = vec![1.0; length];
        if let Some(i) = bad {
            values[i] = f32::INFINITY;
        }
        let dir = folder(&safetensors(&[f32s("w", &[length], &values)]));
        let mut checkpoint = open(&dir).unwrap();
        checkpoint.spread = spread;
        checkpoint.root().tensor("w", &[length]).map(|_| ())
    };
    let threads: Spread = Arc::new(|tasks, body| {
        std::thread::scope(|scope| (0..tasks).for_each(|task| drop(scope.spawn(move || body(task)))));
        Ok(())
    });
    for bad in [0, 1 << 17, length - 2, length - 1] {
        refused(check(Some(bad), Some(threads.clone())), Status::Numeric, &["model.safetensors", "tensor w"]);
        refused(check(Some(bad), None), Status::Numeric, &["model.safetensors", "tensor w"]);
    }
    check(None, Some(threads)).unwrap();
    let failing: Spread = Arc::new(|_, _| Err(crate::util::error::error!(Internal, "planted")));
    refused(check(None, Some(failing)), Status::Internal, &["planted"]);
}

#[test]
fn other_types_are_refused_only_where_they_are_used() {
    let f64s = || TestTensor { name: "x.w", dtype: "F64", shape: vec![1], bytes: vec![0; 8] };
    let dir = folder(&safetensors(&[f64s()]));
    let checkpoint = open(&dir).unwrap();
    refused(checkpoint.root().at("x").tensor("w", &[1]), Status::Unsupported, &["x.w", "F64"]);
    let ignored = TestTensor { name: "x.position_ids", ..f64s() };
    open(&folder(&safetensors(&[ignored]))).unwrap().finish().unwrap();
}

#[test]
fn damaged_files_are_refused() {
    let good = safetensors(&[f32s("a", &[2], &[1.0, 2.0])]);
    assert!(open(&folder(&good)).is_ok());
    let with_length = |length: u64| {
        let mut file = good.clone();
        file[..8].copy_from_slice(&length.to_le_bytes());
        file
    };
    let header =
        |entries: &[String], data: usize| with_header(&format!("{{{}}}", entries.join(",")), &vec![0; data]);
    let a = |offsets| entry("a", "F32", &[2], offsets);
    let b = |offsets| entry("b", "F32", &[1], offsets);
    let huge = entry("a", "F32", &[usize::MAX, 2], [0, 8]);
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("empty", vec![], "too few"),
        ("shorter than the length", good[..7].to_vec(), "too few"),
        ("header cut off", good[..20].to_vec(), "truncated"),
        ("data cut off", good[..good.len() - 1].to_vec(), "not fully covered"),
        ("data too long", [&good[..], &[0]].concat(), "not fully covered"),
        ("length too small", with_length(9), "invalid JSON"),
        ("length past the end", with_length(good.len() as u64), "truncated"),
        ("length over the limit", with_length(u64::MAX), "not a safetensors file"),
        ("a pickle", b"PK\x03\x04\x00\x00\x00\x00archive/data.pkl".to_vec(), "truncated"),
        ("a hole", header(&[a([0, 8]), b([12, 16])], 16), "offset"),
        ("an overlap", header(&[a([0, 8]), b([4, 8])], 8), "offset"),
        ("offsets that go back", header(&[a([8, 0])], 8), "offset"),
        ("offsets past the end", header(&[a([0, 8]), b([8, 12])], 8), "not fully covered"),
        ("size unlike the shape", header(&[entry("a", "F32", &[3], [0, 8])], 8), "invalid shape"),
        ("a shape that overflows", header(&[huge], 8), "overflow"),
        ("an unknown type", header(&[entry("a", "F31", &[2], [0, 8])], 8), "F31"),
        ("a name twice", header(&[a([0, 8]), a([0, 8])], 8), "tensor a comes twice"),
        ("no object", with_header("[1, 2]", &[]), "model.safetensors"),
        ("not UTF-8", with_length(8).iter().map(|b| b | 0x80).collect(), "not a safetensors file"),
    ];
    for (what, bytes, named) in cases {
        let dir = folder(&bytes);
        match open(&dir) {
            Ok(_) => panic!("accepted: {what}"),
            Err(error) => refused::<()>(Err(error), Status::Format, &["model.safetensors", named]),
        }
    }
}

#[test]
fn no_byte_of_a_header_can_do_harm() {
    let good = safetensors(&[f32s("a", &[2], &[1.0, 2.0]), f32s("b.c", &[1], &[3.0])]);
    for i in 0..good.len() - 12 {
        for flip in [0x01, 0x10, 0x80] {
            let mut bytes = good.clone();
            bytes[i] ^= flip;
            let dir = folder(&bytes);
            // Either refused, or read as something else that lies inside the file.
            if let Ok(checkpoint) = open(&dir) {
                let _ = checkpoint.root().tensor("a", &[2]);
                let _ = checkpoint.root().tensor("b.c", &[1]);
                let _ = checkpoint.finish();
            }
        }
    }
}

#[test]
fn variants_are_found_and_missing_ones_named() {
    let file = safetensors(&[f32s("a", &[1], &[1.0])]);
    let dir = TempDir::new();
    let open = |variant| Checkpoint::open(dir.path(), "model", variant).map(|c| c.path.clone());
    let name = |path: Result<PathBuf>| path.unwrap().file_name().unwrap().to_str().unwrap().to_owned();
    let here = dir.path().to_str().unwrap();
    refused(open(None), Status::NotFound, &[here, "model.safetensors"]);
    dir.write("pytorch_model.bin", b"");
    refused(open(None), Status::NotFound, &[".bin are not read"]);
    dir.write("model.fp16.safetensors", &file);
    assert_eq!(name(open(None)), "model.fp16.safetensors");
    assert_eq!(name(open(Some("fp16"))), "model.fp16.safetensors");
    refused(open(Some("bf16")), Status::NotFound, &[here, "model.bf16.safetensors", "fp16"]);
    dir.write("model.non_ema.safetensors", &file);
    refused(open(None), Status::NotFound, &["fp16, non_ema"]);
    dir.write("model.safetensors", &file);
    assert_eq!(name(open(None)), "model.safetensors");
    assert_eq!(name(open(Some("non_ema"))), "model.non_ema.safetensors");
    let nowhere = Checkpoint::open(&dir.path().join("unet"), "model", None);
    refused(nowhere, Status::NotFound, &["unet", "folder"]);
}

/// A folder with an index of this name and weight map, and shards of one tensor each.
fn sharded(index: &str, map: &[(&str, &str)], shards: &[(&str, &'static str)]) -> TempDir {
    let dir = TempDir::new();
    let map: Vec<String> = map.iter().map(|(tensor, shard)| format!("{tensor:?}: {shard:?}")).collect();
    let json = format!(r#"{{"metadata": {{"total_size": 8}}, "weight_map": {{{}}}}}"#, map.join(", "));
    dir.write(index, json.as_bytes());
    for (shard, tensor) in shards {
        dir.write(shard, &safetensors(&[f32s(tensor, &[1], &[1.0])]));
    }
    dir
}

#[test]
fn shards_are_read_under_every_spelling() {
    let spellings = [
        ("model.safetensors.index.json", "model-0000N-of-00002.safetensors", None),
        ("model.fp16.safetensors.index.json", "model.fp16-0000N-of-00002.safetensors", Some("fp16")),
        ("model.safetensors.index.fp16.json", "model-0000N-of-00002.fp16.safetensors", Some("fp16")),
    ];
    for (index, pattern, variant) in spellings {
        let shards = [pattern.replace('N', "1"), pattern.replace('N', "2")];
        let map = [("a", &*shards[0]), ("b", &*shards[1])];
        let dir = sharded(index, &map, &[(&shards[0], "a"), (&shards[1], "b")]);
        for variant in [variant, None] {
            let checkpoint = Checkpoint::open(dir.path(), "model", variant).unwrap();
            checkpoint.root().tensor("a", &[1]).unwrap();
            checkpoint.root().tensor("b", &[1]).unwrap();
            checkpoint.finish().unwrap();
        }
    }
}

#[test]
fn an_index_that_lies_is_refused() {
    let index = "model.safetensors.index.json";
    let absent = sharded(index, &[("a", "s1"), ("b", "s2")], &[("s1", "a")]);
    refused(open(&absent), Status::NotFound, &["s2"]);
    let missing = sharded(index, &[("a", "s1"), ("b", "s1")], &[("s1", "a")]);
    refused(open(&missing), Status::Format, &["s1", "tensor b", index]);
    let unlisted = sharded(index, &[("a", "s1"), ("b", "s2")], &[("s1", "a"), ("s2", "c")]);
    refused(open(&unlisted), Status::Format, &["s2", index]);
    let extra = sharded(index, &[("a", "s1")], &[]);
    extra.write("s1", &safetensors(&[f32s("a", &[1], &[1.0]), f32s("c", &[1], &[1.0])]));
    refused(open(&extra), Status::Format, &["s1", "tensor c", index]);
    let truncated = sharded(index, &[("a", "s1")], &[]);
    truncated.write("s1", b"12345678");
    refused(open(&truncated), Status::Format, &["s1"]);
    for text in [&b"{}"[..], br#"{"weight_map": {}}"#, br#"{"weight_map": {"a": 1}}"#, b"{"] {
        let dir = TempDir::new();
        dir.write(index, text);
        refused(open(&dir), Status::Format, &[index]);
    }
}

#[test]
fn shards_outside_the_folder_are_refused() {
    let outside = folder(&safetensors(&[f32s("a", &[1], &[1.0])]));
    let absolute = outside.path().join("model.safetensors");
    let up = format!("../{}/model.safetensors", outside.path().file_name().unwrap().to_str().unwrap());
    for shard in [absolute.to_str().unwrap(), &up, "x/../../y", "./..", ""] {
        let dir = sharded("model.safetensors.index.json", &[("a", shard)], &[]);
        refused(open(&dir), Status::Format, &["model.safetensors.index.json", &format!("{shard:?}")]);
    }
}
