//! `docs/sampling.md` has a line on each sampler and sigma schedule, from the same tables as option lists.

#![allow(clippy::unwrap_used)]

use super::{SAMPLERS, SIGMA_SCHEDULES};

fn samplers() -> String {
    let mut table = String::from(
        "| name | order | evaluations a step | stochastic | when to use it | source |\n|---|---|---|---|---|---|\n",
    );
    for info in SAMPLERS {
        let stochastic = if info.stochastic { "yes" } else { "no" };
        table += &format!(
            "| `{}` | {} | {} | {stochastic} | {} | {} |\n",
            info.name, info.order, info.evaluations, info.summary, info.source
        );
    }
    table
}

fn sigma_schedules() -> String {
    let mut table = String::from("| name | what it does | source |\n|---|---|---|\n");
    for info in SIGMA_SCHEDULES {
        table += &format!("| `{}` | {} | {} |\n", info.name, info.summary, info.source);
    }
    table
}

/// `page` with `table` between its mark and the next end.
fn filled(page: &str, mark: &str, table: &str) -> String {
    let mark = format!("<!-- {mark}: written by `make docs` -->\n");
    let (before, after) = page.split_once(&mark).unwrap();
    let (_, after) = after.split_once("<!-- end -->").unwrap();
    format!("{before}{mark}{table}<!-- end -->{after}")
}

#[test]
fn the_page_equals_the_tables() {
    let path = crate::testing::root().join("docs/sampling.md");
    let page = std::fs::read_to_string(&path).unwrap();
    let expected = filled(&page, "samplers", &samplers());
    let expected = filled(&expected, "sigma schedules", &sigma_schedules());
    if std::env::var_os("WRITE_DOCS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    } else {
        assert!(page == expected, "docs/sampling.md is not as src/sampling says; run `make docs`");
    }
}
