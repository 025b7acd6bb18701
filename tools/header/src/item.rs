//! One declaration of the header with its comment.

use std::error::Error;

use crate::WIDTH;

/// What is declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Function,
    /// A function pointer.
    Callback,
    Enum,
    Struct,
    /// A structure nobody sees into.
    Opaque,
    /// Another name for a number.
    Alias,
}

/// A declaration as cbindgen wrote it.
#[derive(Debug)]
pub struct Item {
    pub name: String,
    pub group: String,
    kind: Kind,
    /// Lines of the comment, without its marks.
    doc: Vec<String>,
    declaration: String,
}

/// Splits cbindgen's output, in which an empty line stands between declarations.
pub fn parse(bindings: &str) -> Result<Vec<Item>, Box<dyn Error>> {
    bindings.split("\n\n").map(str::trim).filter(|block| !block.is_empty()).map(Item::parse).collect()
}

impl Item {
    fn parse(block: &str) -> Result<Self, Box<dyn Error>> {
        let (comment, declaration) = block
            .strip_prefix("/**\n")
            .and_then(|rest| rest.split_once("\n */\n"))
            .ok_or_else(|| format!("no comment before:\n{block}"))?;
        let mut group = String::new();
        let mut doc = Vec::new();
        for line in comment.lines() {
            let line = line.trim_start().trim_start_matches('*').trim();
            match line.strip_prefix("\\ingroup ") {
                Some(name) => group = name.to_owned(),
                None => doc.push(line.to_owned()),
            }
        }
        let kind = kind(declaration);
        let name = name(declaration, kind).ok_or_else(|| format!("cannot read:\n{declaration}"))?.to_owned();
        Ok(Self { name, group, kind, doc, declaration: declaration.to_owned() })
    }

    /// Whether this is a structure nobody sees into.
    pub fn is_opaque(&self) -> bool {
        self.kind == Kind::Opaque
    }

    /// How the Rust source begins this item.
    pub fn rust_declaration(&self) -> String {
        match self.kind {
            Kind::Function => format!(" fn {}(", self.name),
            Kind::Callback | Kind::Alias => format!("pub type {} ", self.name),
            Kind::Enum => format!("pub enum {} ", self.name),
            Kind::Struct | Kind::Opaque => format!("pub struct {} ", self.name),
        }
    }

    /// What the comment should say and does not.
    pub fn missing_tags(&self) -> Vec<String> {
        let mut wanted: Vec<String> = Vec::new();
        if matches!(self.kind, Kind::Function | Kind::Callback) {
            wanted.extend(self.parameters().iter().map(|name| format!("\\param {name} ")));
            let void = [format!("void {}(", self.name), format!("void (*{})(", self.name)];
            if !void.iter().any(|start| self.declaration.contains(start)) {
                wanted.push("\\returns ".to_owned());
            }
        }
        if self.kind == Kind::Function {
            wanted.push("\\threadsafety ".to_owned());
        }
        if self.kind != Kind::Enum {
            wanted.push("\\since ".to_owned());
        }
        let missing = wanted.iter().filter(|tag| !self.doc.iter().any(|line| line.starts_with(tag.as_str())));
        let mut complaints: Vec<String> = missing.map(|tag| format!("{} has no {tag}", self.name)).collect();
        if self.doc.first().is_none_or(|line| line.is_empty() || line.starts_with('\\')) {
            complaints.push(format!("{} has no summary", self.name));
        }
        if self.group.is_empty() {
            complaints.push(format!("{} has no \\ingroup", self.name));
        }
        complaints
    }

    fn parameters(&self) -> Vec<&str> {
        let list = self.declaration.rsplit_once('(').map_or("", |(_, list)| list);
        let list = list.split(')').next().unwrap_or("");
        list.split(',')
            .map(|parameter| parameter.trim().rsplit([' ', '*']).next().unwrap_or(""))
            .filter(|name| !name.is_empty() && *name != "void")
            .collect()
    }

    /// The item as the header shows it.
    pub fn text(&self) -> String {
        let declaration = match self.kind {
            Kind::Opaque => format!("typedef struct {0} {0};", self.name),
            Kind::Enum => {
                // C++98 takes no comma after the last value.
                let body = self.declaration.replacen("typedef enum", &format!("enum {}", self.name), 1);
                body.replace(&format!(",\n}} {};", self.name), "\n};")
            }
            Kind::Function | Kind::Callback => wrap(&self.declaration),
            Kind::Struct => {
                self.declaration.replacen("typedef struct", &format!("typedef struct {}", self.name), 1)
            }
            Kind::Alias => self.declaration.clone(),
        };
        let mut text = comment(&self.doc, "") + &fill_comments(&declaration);
        if self.kind == Kind::Struct
            && let Some(macro_text) = self.init_macro()
        {
            text.push_str(&macro_text);
        }
        text
    }

    /// For a structure that begins with `struct_size`: the initializer with every field, which compilers accept
    /// without warnings in C and C++.
    fn init_macro(&self) -> Option<String> {
        let fields: Vec<&str> = self
            .declaration
            .lines()
            .map(str::trim)
            .filter(|line| line.ends_with(';') && !line.starts_with(['*', '/', '}']))
            .collect();
        let rest = fields.split_first().filter(|(first, _)| first.contains(" struct_size;"))?.1;
        let zeros: Vec<&str> = rest
            .iter()
            .map(|field| if field.contains('*') || field.contains("_callback ") { "NULL" } else { "0" })
            .collect();
        let values = std::iter::once(format!("sizeof({})", self.name))
            .chain(zeros.into_iter().map(str::to_owned))
            .collect::<Vec<_>>()
            .join(", ");
        let name = format!("{}_INIT", self.name.to_uppercase());
        let line = format!("#define {name} {{ {values} }}");
        let definition = if line.len() <= WIDTH {
            line
        } else {
            let values = fill(&format!("{{ {values} }}"), WIDTH - 6).join(" \\\n      ");
            format!("#define {name} \\\n    {values}")
        };
        Some(format!("/** A {} with struct_size set and all else zero. */\n{definition}\n", self.name))
    }
}

fn kind(declaration: &str) -> Kind {
    match declaration {
        text if text.starts_with("typedef enum") => Kind::Enum,
        text if text.starts_with("typedef struct") && text.contains("_private") => Kind::Opaque,
        text if text.starts_with("typedef struct") => Kind::Struct,
        text if text.starts_with("typedef") && text.contains("(*") => Kind::Callback,
        text if text.starts_with("typedef") => Kind::Alias,
        _ => Kind::Function,
    }
}

fn name(declaration: &str, kind: Kind) -> Option<&str> {
    match kind {
        Kind::Function => declaration.split_once('(')?.0.rsplit([' ', '*', '\n']).next(),
        Kind::Callback => declaration.split_once("(*")?.1.split(')').next(),
        _ => declaration.strip_suffix(';')?.rsplit(' ').next(),
    }
}

/// A declaration on one line, or with its attributes, its name and its parameters on lines of their own.
fn wrap(declaration: &str) -> String {
    let words: Vec<&str> = declaration.split_whitespace().collect();
    let line = words.join(" ");
    if line.len() <= WIDTH {
        return line;
    }
    let name = words.iter().position(|word| !word.starts_with("DIFFUSION_")).unwrap_or(0);
    let (attributes, rest) = (words[..name].join(" "), words[name..].join(" "));
    if rest.len() <= WIDTH {
        return format!("{attributes}\n{rest}");
    }
    let Some((start, parameters)) = rest.split_once('(') else { return rest };
    let mut lines = vec![String::new()];
    for parameter in parameters.split_inclusive(", ") {
        if lines.last().is_some_and(|line| 4 + line.len() + parameter.trim_end().len() > WIDTH) {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            line.push_str(parameter);
        }
    }
    let lines: String = lines.iter().map(|line| format!("\n    {}", line.trim_end())).collect();
    format!("{attributes}\n{start}({lines}")
}

/// A comment, filled to the width of the page; what continues a tag is indented.
fn comment(doc: &[String], indent: &str) -> String {
    let mut paragraphs: Vec<String> = Vec::new();
    for line in doc {
        match paragraphs.last_mut() {
            Some(last) if !last.is_empty() && !line.is_empty() && !line.starts_with('\\') => {
                last.push(' ');
                last.push_str(line);
            }
            _ => paragraphs.push(line.clone()),
        }
    }
    if let [text] = paragraphs.as_slice()
        && indent.len() + text.len() + 7 <= WIDTH
    {
        return format!("{indent}/** {text} */\n");
    }
    let lines = paragraphs.iter().flat_map(|text| fill(text, WIDTH - 3 - indent.len()));
    let body: String = lines.map(|line| format!("{indent}{}\n", format!(" * {line}").trim_end())).collect();
    format!("{indent}/**\n{body}{indent} */\n")
}

fn fill(paragraph: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in paragraph.split(' ') {
        let last = lines.len() - 1;
        if !lines[last].is_empty() && lines[last].len() + 1 + word.len() > width {
            let indent = if paragraph.starts_with('\\') { "    " } else { "" };
            lines.push(format!("{indent}{word}"));
        } else {
            if !lines[last].is_empty() {
                lines[last].push(' ');
            }
            lines[last].push_str(word);
        }
    }
    lines
}

/// Fills the comments inside a declaration.
fn fill_comments(declaration: &str) -> String {
    let mut out = String::new();
    let mut doc: Option<Vec<String>> = None;
    for line in declaration.lines() {
        let text = line.trim();
        match (&mut doc, text) {
            (None, "/**") => doc = Some(Vec::new()),
            (Some(lines), "*/") => {
                out.push_str(&comment(lines, "    "));
                doc = None;
            }
            (Some(lines), _) => lines.push(text.trim_start_matches('*').trim().to_owned()),
            (None, _) => {
                out.push_str(line.trim_end());
                out.push('\n');
            }
        }
    }
    out
}
