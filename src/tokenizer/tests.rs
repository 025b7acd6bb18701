#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::*;

fn root(path: &str) -> PathBuf {
    crate::testing::root().join(path)
}

/// A folder of its own for each test, gone at the end of it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path =
            std::env::temp_dir().join(format!("libdiffusion-tokenizer-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn with(self, file: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.0.join(file), content).unwrap();
        self
    }

    fn with_files_of(self, path: &str) -> Self {
        for entry in fs::read_dir(root(path)).into_iter().flatten() {
            let entry = entry.unwrap();
            fs::copy(entry.path(), self.0.join(entry.file_name())).unwrap();
        }
        self
    }

    /// A vocabulary of six tokens, whose one word is "ab".
    fn tiny() -> Self {
        Self::new().with("vocab.json", TINY).with("merges.txt", "#version: 0.2\na b</w>\n")
    }
}

const TINY: &str = r#"{"a": 0, "b": 1, "b</w>": 2, "ab</w>": 3, "<|startoftext|>": 4, "<|endoftext|>": 5}"#;

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn prompts() -> Value {
    serde_json::from_str(&fs::read_to_string(root("tests/golden/tokenizer/prompts.json")).unwrap()).unwrap()
}

/// Compares every prompt of the fixture; `layout` is the folder whose small files go around CLIP's vocabulary.
fn check(layout: &str) {
    let tokenizer = if layout == "emoji-64" {
        Tokenizer::load(&root("models/emoji-64/tokenizer")).unwrap()
    } else {
        let folder = Folder::new().with_files_of(&format!("tests/golden/tokenizer/{layout}"));
        for file in ["vocab.json", "merges.txt"] {
            fs::copy(root("tests/golden/tokenizer/clip").join(file), folder.0.join(file)).unwrap();
        }
        Tokenizer::load(&folder.0).unwrap()
    };
    let golden = &prompts()[layout];
    let max_length = golden["max_length"].as_u64().unwrap() as usize;
    assert_eq!(tokenizer.max_length(), max_length);
    let cases = golden["cases"].as_array().unwrap();
    assert!(cases.len() > 50);
    for case in cases {
        let text = case["text"].as_str().unwrap();
        let mut ids: Vec<u32> =
            case["ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect();
        ids.resize(max_length, golden["pad_id"].as_u64().unwrap() as u32);
        let tokens = case["tokens"].as_u64().unwrap() as u32;
        let dropped = tokens.saturating_sub(max_length as u32 - 2);
        assert_eq!(tokenizer.encode(text).unwrap(), Tokens { ids, tokens, dropped }, "{layout}: {text:?}");
    }
}

#[test]
fn clip_ids_equal_transformers() {
    check("clip");
}

#[test]
fn a_padding_token_of_its_own_equals_transformers() {
    check("clip-pad-exclamation");
}

#[test]
fn added_tokens_equal_transformers() {
    check("clip-added-tokens");
}

#[test]
fn a_bare_vocabulary_equals_transformers() {
    check("clip-bare");
}

#[test]
fn emoji_64_ids_equal_transformers() {
    check("emoji-64");
}

#[test]
fn threads_may_share_a_tokenizer() {
    fn shared<T: Send + Sync>() {}
    shared::<Tokenizer>();
}

#[test]
fn reports_length_and_ids() {
    let tokenizer = Tokenizer::load(&root("tests/golden/tokenizer/clip")).unwrap();
    assert_eq!((tokenizer.max_length(), tokenizer.vocab_size(), tokenizer.eos_id()), (77, 49408, 49407));
    let tokenizer = Tokenizer::load(&root("models/emoji-64/tokenizer")).unwrap();
    assert_eq!((tokenizer.max_length(), tokenizer.vocab_size(), tokenizer.eos_id()), (32, 4096, 4095));
}

/// `tokenizer.json` spells a merge as "a b" in old files and as ["a", "b"] in new ones.
#[test]
fn reads_both_spellings_of_merges() {
    let expected = Tokenizer::load(&Folder::tiny().0).unwrap().encode("ab").unwrap();
    assert_eq!(expected.ids[..3], [4, 3, 5]);
    for merges in [r#"["a b</w>"]"#, r#"[["a", "b</w>"]]"#] {
        let json = format!(r#"{{"model": {{"type": "BPE", "vocab": {TINY}, "merges": {merges}}}}}"#);
        let folder = Folder::new().with("tokenizer.json", json);
        assert_eq!(Tokenizer::load(&folder.0).unwrap().encode("ab").unwrap(), expected);
    }
}

#[test]
fn refuses_prompts_past_the_limit_and_takes_those_at_it() {
    let tokenizer = Tokenizer::load(&root("models/emoji-64/tokenizer")).unwrap();
    for longest in ["a", " ", "!", "\u{301}", "1"] {
        let text = longest.repeat(limits::PROMPT_BYTES / longest.len());
        assert_eq!(tokenizer.encode(&text).unwrap().ids.len(), 32);
    }
    let error = tokenizer.encode(&"a".repeat(limits::PROMPT_BYTES + 1)).unwrap_err();
    assert_eq!(error.status(), Status::InvalidArgument);
    assert!(error.message().contains("1048577 bytes"), "{error}");
}

#[track_caller]
fn fails(folder: &Folder, status: Status, words: &[&str]) {
    let error = Tokenizer::load(&folder.0).unwrap_err();
    assert_eq!(error.status(), status, "{error}");
    for word in words {
        assert!(error.message().contains(word), "{error} lacks {word:?}");
    }
    assert!(!error.message().contains('\n'), "{error}");
}

#[test]
fn missing_files_are_named() {
    fails(&Folder::new(), Status::NotFound, &["vocab.json"]);
    fails(&Folder::new().with("vocab.json", TINY), Status::NotFound, &["merges.txt"]);
}

#[test]
fn damaged_files_are_named() {
    use Status::Format;
    fails(&Folder::tiny().with("vocab.json", &TINY[..40]), Format, &["vocab.json", "JSON"]);
    fails(&Folder::tiny().with("vocab.json", "[]"), Format, &["vocab.json", "object"]);
    fails(&Folder::tiny().with("vocab.json", "{}"), Format, &["vocab.json", "empty"]);
    fails(&Folder::tiny().with("vocab.json", [0xFF, 0xFE]), Format, &["vocab.json", "UTF-8"]);
    fails(&Folder::tiny().with("vocab.json", TINY.replace("5}", "6}")), Format, &["vocab.json", "id 6"]);
    fails(&Folder::tiny().with("vocab.json", TINY.replace("5}", "4}")), Format, &["vocab.json", "id 4"]);
    fails(
        &Folder::tiny().with("vocab.json", TINY.replace("5}", "-1}")),
        Format,
        &["vocab.json", "endoftext"],
    );
    fails(
        &Folder::tiny().with("vocab.json", TINY.replace("|end", "|and")),
        Format,
        &["vocab.json", "eos_token"],
    );
    fails(&Folder::tiny().with("merges.txt", "a c\n"), Format, &["vocab.json", "c"]);
    fails(&Folder::tiny().with("merges.txt", "b a\n"), Format, &["vocab.json", "ba"]);
    fails(&Folder::tiny().with("merges.txt", "a\n"), Format, &["merges.txt", "line 1"]);
    fails(
        &Folder::tiny().with("merges.txt", "#version\na b</w>\na b c\n"),
        Format,
        &["merges.txt", "line 3"],
    );
}

#[test]
fn damaged_tokenizer_json_is_named() {
    use Status::{Format, Unsupported};
    let with = |json: &str| Folder::tiny().with("tokenizer.json", json);
    fails(&with("{\"model\": {"), Format, &["tokenizer.json", "JSON"]);
    fails(&with("{}"), Format, &["tokenizer.json", "model"]);
    fails(&with(r#"{"model": {"type": "Unigram"}}"#), Unsupported, &["tokenizer.json", "Unigram"]);
    fails(&with(r#"{"model": {"type": "BPE"}}"#), Format, &["tokenizer.json", "vocab"]);
    fails(&with(r#"{"model": {"vocab": {"a": 0}}}"#), Format, &["tokenizer.json", "merges"]);
    fails(
        &with(r#"{"model": {"vocab": {"a": 0}, "merges": [["a"]]}}"#),
        Format,
        &["tokenizer.json", "merges[0]"],
    );
    let added = format!(
        r#"{{"model": {{"vocab": {TINY}, "merges": []}}, "added_tokens": [{{"id": 9, "content": "<x>"}}]}}"#
    );
    fails(&with(&added), Format, &["<x>", "9"]);
    fails(&with(&added.replace(r#""id": 9, "#, "")), Format, &["tokenizer.json", "added_tokens"]);
}

#[test]
fn impossible_settings_are_named() {
    use Status::{Format, Unsupported};
    let with = |json: &str| Folder::tiny().with("tokenizer_config.json", json);
    fails(&with(r#"{"model_max_length": 1}"#), Format, &["tokenizer_config.json", "model_max_length 1"]);
    fails(&with(r#"{"model_max_length": -5}"#), Format, &["tokenizer_config.json", "-5"]);
    fails(
        &with(r#"{"tokenizer_class": "T5Tokenizer"}"#),
        Unsupported,
        &["tokenizer_config.json", "T5Tokenizer"],
    );
    fails(&with(r#"{"padding_side": "left"}"#), Unsupported, &["tokenizer_config.json", "padding_side"]);
    fails(&with(r#"{"pad_token": "?"}"#), Format, &["pad_token", "?"]);
    fails(&with(r#"{"pad_token": 7}"#), Format, &["tokenizer_config.json", "pad_token"]);
    fails(&with(r#"{"bos_token": ""}"#), Format, &["tokenizer_config.json", "bos_token"]);
    fails(
        &with(r#"{"added_tokens_decoder": {"7": {"content": " ", "lstrip": true}}}"#),
        Unsupported,
        &["tokenizer_config.json", "lstrip"],
    );
    fails(&with("{"), Format, &["tokenizer_config.json", "JSON"]);
    // Unlimited, the way transformers writes it.
    let folder = with(r#"{"model_max_length": 1000000000000000019884624838656}"#);
    assert_eq!(Tokenizer::load(&folder.0).unwrap().max_length(), 77);
}
