//! Our own source as text: what is code, what is comment, which modules a file uses.
//!
//! It knows just enough of Rust's grammar to be right about comments, literals, attributes and
//! braces. It does not resolve names: a use is `crate::NAME`, wherever it stands.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

/// The folder of the workspace.
#[must_use]
pub fn workspace() -> &'static Path {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("the crate of the tests lies in the folder of the workspace")
}

/// Every `.rs` file below `folder`, sorted.
///
/// # Errors
/// When a folder cannot be read.
pub fn files(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                found.push(path);
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The text with comments and the contents of literals blanked out; line breaks stay.
#[must_use]
pub fn code(text: &str) -> String {
    split(text).0
}

/// The text with everything but comments blanked out; line breaks stay.
#[must_use]
pub fn comments(text: &str) -> String {
    split(text).1
}

/// Code without what is compiled for tests only: items behind `#[cfg(test)]`.
#[must_use]
pub fn without_tests(code: &str) -> String {
    let mut rest = code;
    let mut kept = String::new();
    while let Some(at) = rest.find("#[cfg(test)]") {
        kept.push_str(&rest[..at]);
        let item = &rest[at + "#[cfg(test)]".len()..];
        rest = &item[item_end(item)..];
    }
    kept + rest
}

/// Modules in the order of their declaration in a lib.rs, whatever their visibility.
#[must_use]
pub fn modules(code: &str) -> Vec<String> {
    let words: Vec<&str> = code.split_whitespace().collect();
    let named = words.windows(2).filter(|pair| pair[0] == "mod");
    named.filter_map(|pair| pair[1].strip_suffix(';')).map(str::to_owned).collect()
}

/// Names that follow `crate::`, those in braces too; with `top`, for a file that lies directly in
/// `src`, also those that follow `super::`.
#[must_use]
pub fn uses(code: &str, top: bool) -> BTreeSet<String> {
    let starts: &[&str] = if top { &["crate::", "super::"] } else { &["crate::"] };
    let mut names = BTreeSet::new();
    for start in starts {
        for (at, _) in code.match_indices(start) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_') {
                continue;
            }
            let after = code[at + start.len()..].trim_start();
            match after.strip_prefix('{') {
                Some(group) => group_names(group, &mut names),
                None => names.extend(first_name(after)),
            }
        }
    }
    names
}

/// Titles behind `DEVIATION:` in a text, up to the end of the sentence or line.
#[must_use]
pub fn deviations(text: &str) -> Vec<String> {
    text.lines()
        .filter_map(|line| line.split_once("DEVIATION:"))
        .map(|(_, title)| {
            let end = title.find(['.', ';', ':', '(']).unwrap_or(title.len());
            title[..end].trim_matches([' ', '*', '`', '_']).to_owned()
        })
        .collect()
}

/// The `//!` lines at the start of a file.
#[must_use]
pub fn head(text: &str) -> String {
    let lines = text.lines().take_while(|line| line.starts_with("//!"));
    lines.map(|line| line.trim_start_matches("//!")).collect::<Vec<_>>().join("\n")
}

fn group_names(group: &str, names: &mut BTreeSet<String>) {
    let mut depth = 0_usize;
    let mut item = String::new();
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => names.extend(first_name(&std::mem::take(&mut item))),
            _ => item.push(c),
        }
    }
    names.extend(first_name(&item));
}

fn first_name(text: &str) -> Option<String> {
    let text = text.trim_start();
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(text.len());
    (end > 0).then(|| text[..end].to_owned())
}

/// Where the item at the start of `text` ends: behind its `;`, or behind its braces.
fn item_end(text: &str) -> usize {
    let mut depth = 0_usize;
    for (at, c) in text.char_indices() {
        match c {
            '{' | '(' | '[' => depth += 1,
            '}' | ')' | ']' => {
                depth = depth.saturating_sub(1);
                if depth == 0 && c == '}' {
                    return at + 1;
                }
            }
            ';' | ',' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// Code and comments of a text, each with the other blanked out.
fn split(text: &str) -> (String, String) {
    let (mut code, mut comments) = (String::new(), String::new());
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let (len, kind) = token(rest, first);
        let (token, behind) = rest.split_at(len);
        let blank = |token: &str| -> String {
            token.chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect()
        };
        match kind {
            Token::Code => {
                code.push_str(token);
                comments.push_str(&blank(token));
            }
            Token::Comment => {
                code.push_str(&blank(token));
                comments.push_str(token);
            }
            Token::Literal => {
                code.push_str(&blank(token));
                comments.push_str(&blank(token));
            }
        }
        rest = behind;
    }
    (code, comments)
}

enum Token {
    Code,
    Comment,
    Literal,
}

fn token(rest: &str, first: char) -> (usize, Token) {
    if rest.starts_with("//") {
        return (rest.find('\n').unwrap_or(rest.len()), Token::Comment);
    }
    if rest.starts_with("/*") {
        return (block_comment(rest), Token::Comment);
    }
    if let Some(len) = raw_string(rest) {
        return (len, Token::Literal);
    }
    if first == '"' {
        return (quoted(rest, '"').unwrap_or(rest.len()), Token::Literal);
    }
    // A lifetime has no closing quote right behind its first character.
    if first == '\'' {
        let mut after = rest[1..].chars();
        let literal = match after.next() {
            Some('\\') => true,
            Some(_) => after.next() == Some('\''),
            None => false,
        };
        if literal && let Some(len) = quoted(rest, '\'') {
            return (len, Token::Literal);
        }
    }
    if first.is_alphabetic() || first == '_' {
        // A whole word at once, so that the r of a raw string is not one at the end of a name.
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        return (end, Token::Code);
    }
    (first.len_utf8(), Token::Code)
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        let here = &rest[at..];
        if here.starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if here.starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += here.chars().next().map_or(1, char::len_utf8);
        }
    }
    rest.len()
}

fn raw_string(rest: &str) -> Option<usize> {
    let body = rest.strip_prefix("br").or_else(|| rest.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    let body = body[hashes..].strip_prefix('"')?;
    let end = format!("\"{}", "#".repeat(hashes));
    let start = rest.len() - body.len();
    Some(body.find(&end).map_or(rest.len(), |at| start + at + end.len()))
}

/// Octets up to and with the closing quote.
fn quoted(rest: &str, quote: char) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in rest.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r##"
// crate::comment
/* crate::block /* nested */ crate::block */
use crate::{alpha::{One, Two}, beta, gamma::Three};
fn f<'a>(x: &'a str) -> char { let _ = (crate::delta::f(), "crate::string \" ", '\'', '"'); 'x' }
const RAW: &str = r#"crate::raw " "#;
#[cfg(test)]
mod tests { use crate::omega; fn g() { } }
use crate::epsilon;
"##;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn uses_are_found_in_code_only() {
        let code = code(TEXT);
        let all = ["alpha", "beta", "gamma", "delta", "epsilon", "omega"];
        assert_eq!(uses(&code, false), names(&all));
        assert_eq!(uses(&without_tests(&code), false), names(&all[..5]));
        assert_eq!(code.lines().count(), TEXT.lines().count());
    }

    #[test]
    fn only_comments_are_comments() {
        let comments = comments(TEXT);
        assert_eq!(uses(&comments, false), names(&["comment", "block"]));
    }

    #[test]
    fn super_names_a_module_of_the_crate_only_at_the_top() {
        let code = "use super::alpha; fn f() { super::beta::g() }";
        assert_eq!(uses(code, true), names(&["alpha", "beta"]));
        assert_eq!(uses(code, false), names(&[]));
    }

    #[test]
    fn modules_keep_their_order() {
        let code = "#[cfg(feature = \"x\")]\npub mod tunnel;\npub(crate) mod join;\nmod limits;";
        assert_eq!(modules(code), ["tunnel", "join", "limits"]);
    }

    #[test]
    fn a_deviation_is_named_by_its_first_sentence() {
        let text = "    // DEVIATION: push is refused. Because of that.\n- **DEVIATION: x y**: z";
        assert_eq!(deviations(text), ["push is refused", "x y"]);
    }
}
