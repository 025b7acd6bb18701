//! CLIP's byte-pair encoding: from a prompt to token ids, as transformers' `CLIPTokenizer` does it.

mod files;
#[cfg(test)]
mod tests;

use std::path::Path;

use tokenizers::models::bpe::BPE;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{self, Lowercase, NFC, Replace};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::pre_tokenizers::sequence::Sequence;
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::{AddedToken, SplitDelimiterBehavior};

use crate::util::error::{Error, Result, Status, bail, error};
use crate::util::limits;
use files::{Files, SpecialToken, SpecialTokens};

/// What counts as one word before bytes are merged; characters that match nothing (white space) are dropped.
const WORD: &str = concat!(
    r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d",
    r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
);

/// A prompt as the text encoder takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tokens {
    /// Begin token, the prompt's tokens, end token, padding: exactly [`Tokenizer::max_length`] ids.
    pub ids: Vec<u32>,
    /// How many tokens the whole prompt has, begin and end not counted.
    pub tokens: u32,
    /// How many of them, at the end of the prompt, did not fit into `ids`.
    pub dropped: u32,
}

/// A CLIP tokenizer. Immutable, so threads may share it; it starts none, prints nothing and logs nothing.
#[derive(Debug)]
pub struct Tokenizer {
    tokenizer: tokenizers::Tokenizer,
    max_length: usize,
    vocab_size: usize,
    bos_id: u32,
    eos_id: u32,
    pad_id: u32,
}

impl Tokenizer {
    /// Loads a `tokenizer` folder of a diffusers model: `tokenizer.json`, or else `vocab.json` and `merges.txt`;
    /// `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` where present.
    ///
    /// Of `tokenizer.json` only the vocabulary, the merges and the added tokens are read, like transformers 5 does:
    /// the rest is the same for every CLIP. Errors name the file: `NotFound`, `Io`, `Format` for damaged or
    /// contradictory files, `Unsupported` for other kinds of tokenizer.
    pub fn load(dir: &Path) -> Result<Self> {
        let Files { vocabulary_path, vocab, merges, added_tokens, special_tokens, max_length } =
            files::read(dir)?;
        let damaged = |e: tokenizers::Error| error!(Format, "{}: {e}", vocabulary_path.display());
        let vocab_len = vocab.len();

        let added_specials = special_tokens.to_add();
        let SpecialTokens { bos, eos, unk, pad } = special_tokens;
        let id = |role: &str, SpecialToken { token, .. }: &SpecialToken| match vocab.get(&token.content) {
            Some(&id) => Ok(id),
            None => Err(error!(
                Format,
                "{}: the {role} {:?} is not in the vocabulary",
                vocabulary_path.display(),
                token.content
            )),
        };
        let (bos_id, eos_id, pad_id) =
            (id("bos_token", &bos)?, id("eos_token", &eos)?, id("pad_token", &pad)?);
        id("unk_token", &unk)?;

        let model = BPE::builder()
            .vocab_and_merges(vocab, merges)
            .unk_token(unk.token.content)
            .continuing_subword_prefix(String::new())
            .end_of_word_suffix("</w>".to_owned())
            .cache_capacity(0)
            .build()
            .map_err(damaged)?;
        let mut tokenizer = tokenizers::Tokenizer::new(model);
        tokenizer.with_normalizer(Some(normalizers::Sequence::new(vec![
            NFC.into(),
            Replace::new(ReplacePattern::Regex(r"\s+".to_owned()), " ").map_err(broken)?.into(),
            Lowercase.into(),
        ])));
        let words = SplitPattern::Regex(WORD.to_owned());
        tokenizer.with_pre_tokenizer(Some(Sequence::new(vec![
            Split::new(words, SplitDelimiterBehavior::Removed, true).map_err(broken)?.into(),
            ByteLevel::default().add_prefix_space(false).into(),
        ])));

        // Special tokens are found in the prompt before anything else is, the padding token included.
        // (Those that are added tokens too are there already, and adding again changes nothing.)
        let added: Vec<AddedToken> = added_tokens.iter().map(|(_, token)| token.clone()).collect();
        tokenizer.add_tokens(&added);
        tokenizer.add_tokens(&added_specials);
        for (id, token) in &added_tokens {
            let actual = tokenizer.token_to_id(&token.content);
            if actual != Some(*id) {
                bail!(
                    Format,
                    "{}: the added token {:?} has the id {id}, which its place in the vocabulary contradicts",
                    dir.display(),
                    token.content
                );
            }
        }
        let vocab_size = added_tokens.iter().map(|(id, _)| *id as usize + 1).fold(vocab_len, usize::max);
        Ok(Self { tokenizer, max_length, vocab_size, bos_id, eos_id, pad_id })
    }

    /// Turns a prompt into ids, cutting it off where it no longer fits.
    ///
    /// Fails with `InvalidArgument` when `text` is longer than `limits::PROMPT_BYTES`.
    pub fn encode(&self, text: &str) -> Result<Tokens> {
        if text.len() > limits::PROMPT_BYTES {
            bail!(
                InvalidArgument,
                "the prompt has {} bytes, at most {} are allowed",
                text.len(),
                limits::PROMPT_BYTES
            );
        }
        let encoding = self.tokenizer.encode_fast(text, false).map_err(broken)?;
        let tokens = encoding.get_ids();
        // Begin and end always have their places: `files::read` sees to `max_length` ≥ 2.
        let kept = tokens.len().min(self.max_length - 2);
        let mut ids = Vec::with_capacity(self.max_length);
        ids.push(self.bos_id);
        ids.extend_from_slice(&tokens[..kept]);
        ids.push(self.eos_id);
        ids.resize(self.max_length, self.pad_id);
        Ok(Tokens { ids, tokens: tokens.len() as u32, dropped: (tokens.len() - kept) as u32 })
    }

    /// How many ids a prompt becomes (77 for every CLIP that Stable Diffusion uses).
    pub fn max_length(&self) -> usize {
        self.max_length
    }

    /// One more than the largest id there can be; the text encoder needs as many embeddings.
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// The end token's id: the text encoder pools the features at its first place.
    pub fn eos_id(&self) -> u32 {
        self.eos_id
    }
}

/// What the tokenizers crate reports where neither the files nor the prompt can be at fault.
fn broken(e: tokenizers::Error) -> Error {
    Error::new(Status::Internal, format!("tokenizer: {e}"))
}
