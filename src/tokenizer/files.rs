//! The files of a diffusers `tokenizer` folder.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use tokenizers::AddedToken;
use tokenizers::models::bpe::{Merges, Vocab};

use crate::util::error::{Result, Status, bail, error};
use crate::util::file::read_text;
use crate::util::limits;

/// The length of CLIP's context, for folders that do not say (transformers' default for CLIP).
const DEFAULT_MAX_LENGTH: usize = 77;
/// transformers writes a length past any memory (10³⁰) for "unlimited".
const UNLIMITED: f64 = 1e15;
/// Longest context a folder may ask for.
const MAX_LENGTH: usize = 1 << 16;

/// What the folder says, checked as far as the vocabulary alone allows.
pub(super) struct Files {
    /// The file the vocabulary is from, for messages.
    pub(super) vocabulary_path: PathBuf,
    /// Ids 0..len, each once.
    pub(super) vocab: Vocab,
    pub(super) merges: Merges,
    /// With the ids the files claim for them, lowest first.
    pub(super) added_tokens: Vec<(u32, AddedToken)>,
    pub(super) special_tokens: SpecialTokens,
    /// 2 at least.
    pub(super) max_length: usize,
}

pub(super) struct SpecialTokens {
    pub(super) bos: SpecialToken,
    pub(super) eos: SpecialToken,
    pub(super) unk: SpecialToken,
    pub(super) pad: SpecialToken,
}

pub(super) struct SpecialToken {
    pub(super) token: AddedToken,
    /// Given as a string, without the flags of an `AddedToken`.
    pub(super) plain: bool,
}

impl SpecialTokens {
    /// The tokens to look for in a prompt, each text once. Roles share texts, and then flags can differ: transformers
    /// has the last role win, not counting an object that an earlier role gave already.
    pub(super) fn to_add(&self) -> Vec<AddedToken> {
        let mut objects: Vec<&AddedToken> = Vec::new();
        let mut tokens: Vec<AddedToken> = Vec::new();
        for SpecialToken { token, plain } in [&self.bos, &self.eos, &self.unk, &self.pad] {
            if !plain {
                if objects.contains(&token) {
                    continue;
                }
                objects.push(token);
            }
            tokens.retain(|earlier| earlier.content != token.content);
            tokens.push(token.clone());
        }
        tokens
    }
}

pub(super) fn read(dir: &Path) -> Result<Files> {
    let config = Json::read_optional(dir.join("tokenizer_config.json"), limits::CONFIG_BYTES)?;
    check_config(&config)?;
    let tokenizer_json = Json::read_optional(dir.join("tokenizer.json"), limits::TOKENIZER_BYTES)?;
    let (vocabulary_path, vocab, merges) = if tokenizer_json.found {
        let (vocab, merges) = from_tokenizer_json(&tokenizer_json)?;
        (tokenizer_json.path.clone(), vocab, merges)
    } else {
        let vocab_json = Json::read(dir.join("vocab.json"), limits::TOKENIZER_BYTES)?;
        let vocab = vocab_json.vocab(&vocab_json.keys)?;
        (vocab_json.path.clone(), vocab, read_merges(&dir.join("merges.txt"))?)
    };

    let mut added_tokens = Vec::new();
    let mut special_tokens = config.keys.clone();
    if let Some(added) = config.get("added_tokens_decoder") {
        let Some(added) = added.as_object() else {
            bail!(Format, "{}: added_tokens_decoder is not an object", config.path.display());
        };
        for (id, token) in added {
            added_tokens.push((config.id(id, id.parse().ok())?, config.added_token(token)?));
        }
    } else {
        // The layout of older folders, still the one of Stable Diffusion's.
        let map = Json::read_optional(dir.join("special_tokens_map.json"), limits::CONFIG_BYTES)?;
        special_tokens.extend(map.keys);
        let added = Json::read_optional(dir.join("added_tokens.json"), limits::TOKENIZER_BYTES)?;
        for (content, id) in &added.keys {
            added_tokens.push((added.id(content, id.as_u64())?, AddedToken::from(content, false)));
        }
        for token in tokenizer_json.get("added_tokens").and_then(Value::as_array).into_iter().flatten() {
            let id = token.get("id").and_then(Value::as_u64);
            added_tokens.push((tokenizer_json.id("added_tokens", id)?, tokenizer_json.added_token(token)?));
        }
    }
    added_tokens.sort_by_key(|(id, _)| *id);

    let special = |role: &str, default: &str| -> Result<SpecialToken> {
        let (token, plain) = match special_tokens.get(role).filter(|token| !token.is_null()) {
            None => (AddedToken::from(default, true), true),
            Some(token) => (config.added_token(token).map_err(|e| e.context(role))?, token.is_string()),
        };
        match added_tokens.iter().find(|(_, added)| added.content == token.content) {
            Some((_, added)) => Ok(SpecialToken { token: added.clone(), plain: false }),
            None => Ok(SpecialToken { token, plain }),
        }
    };
    let special_tokens = SpecialTokens {
        bos: special("bos_token", "<|startoftext|>")?,
        eos: special("eos_token", "<|endoftext|>")?,
        unk: special("unk_token", "<|endoftext|>")?,
        pad: special("pad_token", "<|endoftext|>")?,
    };
    let max_length = max_length(&config)?;
    Ok(Files { vocabulary_path, vocab, merges, added_tokens, special_tokens, max_length })
}

/// Refuses what would change the ids in a way this library does not know.
fn check_config(config: &Json) -> Result<()> {
    let only: [(&str, &[&str]); 3] = [
        ("tokenizer_class", &["CLIPTokenizer", "CLIPTokenizerFast"]),
        ("padding_side", &["right"]),
        ("truncation_side", &["right"]),
    ];
    for (key, supported) in only {
        if let Some(value) = config.get(key)
            && !value.as_str().is_some_and(|value| supported.contains(&value))
        {
            bail!(Unsupported, "{}: {key} {value} is not supported", config.path.display());
        }
    }
    Ok(())
}

fn max_length(config: &Json) -> Result<usize> {
    let Some(value) = config.get("model_max_length") else { return Ok(DEFAULT_MAX_LENGTH) };
    if value.as_f64().is_some_and(|length| length >= UNLIMITED) {
        return Ok(DEFAULT_MAX_LENGTH);
    }
    match value.as_u64().and_then(|length| usize::try_from(length).ok()) {
        Some(length) if (2..=MAX_LENGTH).contains(&length) => Ok(length),
        _ => bail!(Format, "{}: model_max_length {value} is not in 2..={MAX_LENGTH}", config.path.display()),
    }
}

fn from_tokenizer_json(file: &Json) -> Result<(Vocab, Merges)> {
    let path = file.path.display();
    let Some(model) = file.get("model").and_then(Value::as_object) else {
        bail!(Format, "{path}: model is missing");
    };
    if let Some(kind) = model.get("type").filter(|kind| *kind != "BPE") {
        bail!(Unsupported, "{path}: model type {kind} is not supported");
    }
    let Some(vocab) = model.get("vocab").and_then(Value::as_object) else {
        bail!(Format, "{path}: model.vocab is missing");
    };
    let Some(merges) = model.get("merges").and_then(Value::as_array) else {
        bail!(Format, "{path}: model.merges is missing");
    };
    // Written as "a b" by old versions of the format, as ["a", "b"] by new ones.
    let pair = |merge: &Value| match merge {
        Value::String(text) => text.split_once(' ').map(|(a, b)| (a.to_owned(), b.to_owned())),
        Value::Array(pair) => match pair.as_slice() {
            [Value::String(a), Value::String(b)] => Some((a.clone(), b.clone())),
            _ => None,
        },
        _ => None,
    };
    let merges = merges
        .iter()
        .enumerate()
        .map(|(i, merge)| {
            pair(merge).ok_or_else(|| error!(Format, "{path}: model.merges[{i}] is not a pair of tokens"))
        })
        .collect::<Result<_>>()?;
    Ok((file.vocab(vocab)?, merges))
}

fn read_merges(path: &Path) -> Result<Merges> {
    let text = read_text(path, limits::TOKENIZER_BYTES)?;
    let mut merges = Vec::new();
    for (i, line) in text.lines().enumerate() {
        if line.starts_with("#version") || line.is_empty() {
            continue;
        }
        match line.split_once(' ') {
            Some((a, b)) if !b.contains(' ') => merges.push((a.to_owned(), b.to_owned())),
            _ => bail!(Format, "{}: line {} is not a pair of tokens", path.display(), i + 1),
        }
    }
    Ok(merges)
}

/// A JSON file whose top is an object; `null` counts as absent.
struct Json {
    path: PathBuf,
    found: bool,
    keys: Map<String, Value>,
}

impl Json {
    fn read(path: PathBuf, limit: u64) -> Result<Self> {
        let text = read_text(&path, limit)?;
        match serde_json::from_str(&text) {
            Ok(Value::Object(keys)) => Ok(Self { path, found: true, keys }),
            Ok(_) => bail!(Format, "{}: not a JSON object", path.display()),
            Err(e) => bail!(Format, "{}: not valid JSON: {e}", path.display()),
        }
    }

    /// No keys when there is no such file.
    fn read_optional(path: PathBuf, limit: u64) -> Result<Self> {
        match Self::read(path.clone(), limit) {
            Err(e) if e.status() == Status::NotFound => Ok(Self { path, found: false, keys: Map::new() }),
            result => result,
        }
    }

    fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// Checks that every token has an id of its own and that there are no gaps: text encoders have one embedding an id.
    fn vocab(&self, entries: &Map<String, Value>) -> Result<Vocab> {
        let path = self.path.display();
        if entries.is_empty() {
            bail!(Format, "{path}: the vocabulary is empty");
        }
        let mut seen = HashSet::with_capacity(entries.len());
        let mut vocab = Vocab::with_capacity(entries.len());
        for (token, value) in entries {
            let id = self.id(token, value.as_u64())?;
            if id as usize >= entries.len() {
                bail!(Format, "{path}: token {token:?} has the id {id} in a vocabulary of {}", entries.len());
            }
            if !seen.insert(id) {
                bail!(Format, "{path}: token {token:?} has the id {id}, which another token has");
            }
            vocab.insert(token.clone(), id);
        }
        Ok(vocab)
    }

    fn id(&self, token: &str, id: Option<u64>) -> Result<u32> {
        id.and_then(|id| u32::try_from(id).ok()).ok_or_else(|| {
            error!(Format, "{}: the id of {token:?} is not a 32-bit number", self.path.display())
        })
    }

    /// A string, or transformers' `AddedToken` object.
    fn added_token(&self, value: &Value) -> Result<AddedToken> {
        let flag = |key: &str| value.get(key).and_then(Value::as_bool);
        let (content, special) = match value {
            Value::String(content) => (content.as_str(), true),
            _ => match value.get("content").and_then(Value::as_str) {
                Some(content) => (content, flag("special").unwrap_or(true)),
                None => bail!(Format, "{}: {value} is not a token", self.path.display()),
            },
        };
        if content.is_empty() {
            bail!(Format, "{}: a special token is empty", self.path.display());
        }
        // A token before it may have taken the white space already, and the tokenizers crate would panic.
        if content.trim().is_empty() && flag("lstrip") == Some(true) {
            bail!(Unsupported, "{}: lstrip of the token {content:?}, all white space", self.path.display());
        }
        Ok(AddedToken::from(content, special)
            .normalized(flag("normalized").unwrap_or(!special))
            .lstrip(flag("lstrip").unwrap_or(false))
            .rstrip(flag("rstrip").unwrap_or(false))
            .single_word(flag("single_word").unwrap_or(false)))
    }
}
