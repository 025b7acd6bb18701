//! Where an engine's messages go. There is no global logger and nothing is ever printed.

use std::fmt;
use std::sync::Arc;

/// How much a message matters; a sink hears its own level and those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(i32)]
pub enum Level {
    Error = 1,
    Warn = 2,
    /// What was asked of the library, with its parameters but without prompt text.
    Info = 3,
    /// Everything else, prompt text included.
    Debug = 4,
}

/// Hears messages, from any thread of the library.
pub type Sink = Arc<dyn Fn(Level, &str) + Send + Sync>;

/// A level and a sink, passed down to whoever has something to say. Cheap to clone.
#[derive(Clone, Default)]
pub struct Log(Option<(Level, Sink)>);

impl Log {
    /// Sends messages of `level` and more important ones to `sink`.
    pub fn new(level: Level, sink: Sink) -> Self {
        Self(Some((level, sink)))
    }

    /// Drops every message.
    pub fn off() -> Self {
        Self(None)
    }

    /// Sends one line. `message` is formatted only if somebody listens. Call it with no lock held: the sink is
    /// the caller's code and may call back.
    pub fn write(&self, level: Level, message: fmt::Arguments<'_>) {
        if let Some((most, sink)) = &self.0
            && level <= *most
        {
            sink(level, &message.to_string());
        }
    }

    /// [`Log::write`] at `Warn`.
    pub fn warn(&self, message: fmt::Arguments<'_>) {
        self.write(Level::Warn, message);
    }

    /// [`Log::write`] at `Info`.
    pub fn info(&self, message: fmt::Arguments<'_>) {
        self.write(Level::Info, message);
    }

    /// [`Log::write`] at `Debug`.
    pub fn debug(&self, message: fmt::Arguments<'_>) {
        self.write(Level::Debug, message);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Log").field(&self.0.as_ref().map(|(level, _)| level)).finish()
    }
}
