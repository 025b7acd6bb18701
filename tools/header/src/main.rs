//! Writes `include/diffusion.h` from `src/capi`: the preamble, then what cbindgen makes of the Rust sources, in
//! topic groups and in source order. `--check` compares instead, and fails if the committed header is stale.

mod item;

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cbindgen::{Builder, Config, DocumentationStyle, FunctionConfig, Language, Style};

use crate::item::Item;

/// `\ingroup` names and the headings they stand for, in the order of the header.
const GROUPS: [(&str, &str); 11] = [
    ("version", "Version"),
    ("errors", "Status and errors"),
    ("engine", "Engine and devices"),
    ("models", "Models"),
    ("requests", "Requests and options"),
    ("jobs", "Sessions and jobs"),
    ("images", "Images"),
    ("schedules", "Noise schedules without a model"),
    ("samplers", "Samplers for a loop of your own"),
    ("guidance", "Guidance of your own"),
    (EXPERIMENTAL, "Experimental: not part of the ABI"),
];
const EXPERIMENTAL: &str = "experimental";
/// Longest line.
pub const WIDTH: usize = 100;

fn main() -> ExitCode {
    let check = std::env::args().nth(1).as_deref() == Some("--check");
    match run(check) {
        Ok(message) => {
            println!("{message}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("header: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(check: bool) -> Result<String, Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let target = root.join("include/diffusion.h");
    let header = header(&root)?;
    if check {
        let committed = fs::read_to_string(&target).unwrap_or_default();
        if let Some(line) = first_difference(&committed, &header) {
            return Err(
                format!("include/diffusion.h:{line} is not what src/capi says; run `make header`").into()
            );
        }
        return Ok("include/diffusion.h is up to date".to_owned());
    }
    fs::create_dir_all(root.join("include"))?;
    fs::write(&target, header)?;
    Ok("wrote include/diffusion.h".to_owned())
}

fn first_difference(a: &str, b: &str) -> Option<usize> {
    if a == b {
        return None;
    }
    Some(a.lines().zip(b.lines()).take_while(|(a, b)| a == b).count() + 1)
}

fn header(root: &Path) -> Result<String, Box<dyn Error>> {
    let folder = root.join("src/capi");
    let sources = sources(&folder)?;
    let mut text = String::new();
    for path in &sources {
        text.push_str(&fs::read_to_string(path)?);
    }
    let mut items = item::parse(&bindings(&sources, &text)?)?;
    items.sort_by_key(|item| text.find(&item.rust_declaration()));
    let complaints: Vec<String> = items.iter().flat_map(Item::missing_tags).collect();
    if !complaints.is_empty() {
        return Err(complaints.join("\nheader: ").into());
    }
    let mut out = preamble(root, &folder)?;
    // The opaque types come first: functions of one group return objects of another.
    out.push_str(&heading("Objects"));
    for item in items.iter().filter(|item| item.is_opaque()) {
        out.push_str(&format!("\n{}", item.text()));
    }
    for (group, title) in GROUPS {
        push_group(&mut out, group, title, &items);
    }
    let strays: Vec<_> = items.iter().filter(|item| GROUPS.iter().all(|(g, _)| *g != item.group)).collect();
    if let Some(stray) = strays.first() {
        return Err(format!("{} has no \\ingroup that the header knows", stray.name).into());
    }
    out.push_str("#ifdef __cplusplus\n}\n#endif\n\n#endif /* DIFFUSION_H */\n");
    Ok(out)
}

/// The files of `src/capi` that export something, in the order of its `mod.rs`.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, Box<dyn Error>> {
    let index = fs::read_to_string(folder.join("mod.rs"))?;
    let names = index.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'));
    Ok(names.map(|name| folder.join(name).with_extension("rs")).collect())
}

fn bindings(sources: &[PathBuf], text: &str) -> Result<String, Box<dyn Error>> {
    let mut config = Config {
        language: Language::C,
        style: Style::Type,
        documentation_style: DocumentationStyle::Doxy,
        usize_is_size_t: true,
        no_includes: true,
        line_length: 100,
        tab_width: 4,
        function: FunctionConfig {
            prefix: Some("DIFFUSION_API".to_owned()),
            must_use: Some("DIFFUSION_MUST_USE".to_owned()),
            deprecated_with_note: Some("DIFFUSION_DEPRECATED({})".to_owned()),
            ..FunctionConfig::default()
        },
        ..Config::default()
    };
    // Enums only name numbers, so no signature refers to them.
    config.export.include = text
        .lines()
        .filter_map(|line| line.strip_prefix("pub enum ")?.split_whitespace().next())
        .map(str::to_owned)
        .collect();
    let mut builder = Builder::new().with_config(config);
    for path in sources {
        builder = builder.with_src(path);
    }
    let mut out = Vec::new();
    builder.generate()?.write(&mut out);
    Ok(String::from_utf8(out)?)
}

fn preamble(root: &Path, folder: &Path) -> Result<String, Box<dyn Error>> {
    let manifest = fs::read_to_string(root.join("Cargo.toml"))?;
    let version = manifest
        .lines()
        .find_map(|line| line.strip_prefix("version = \"")?.strip_suffix('"'))
        .ok_or("Cargo.toml has no version")?;
    let mut text = fs::read_to_string(folder.join("preamble.h"))?.replace("@VERSION@", version);
    for (name, number) in ["@MAJOR@", "@MINOR@", "@PATCH@"].iter().zip(version.split('.')) {
        text = text.replace(name, number);
    }
    Ok(text)
}

fn push_group(out: &mut String, group: &str, title: &str, items: &[Item]) {
    out.push_str(&heading(title));
    out.push_str(&format!("/** \\defgroup {group} {title}\n *  \\{{ */\n\n"));
    if group == EXPERIMENTAL {
        out.push_str("#ifdef DIFFUSION_EXPERIMENTAL\n\n");
    }
    for item in items.iter().filter(|item| item.group == group && !item.is_opaque()) {
        out.push_str(&item.text());
        out.push('\n');
    }
    if group == EXPERIMENTAL {
        out.push_str("#endif /* DIFFUSION_EXPERIMENTAL */\n\n");
    }
    out.push_str("/** \\} */\n");
}

fn heading(title: &str) -> String {
    format!("\n/* ---- {title} {} */\n", "-".repeat(WIDTH - 12 - title.len()))
}
