//! The text of a configuration with something added, for `join` and `setup`.
//!
//! What a line means is [`super`]'s; lines that are not replaced stay as they were, comments too.

use data_encoding::HEXLOWER;

use super::{Options, section, split};
use crate::verify::Pin;

/// The text of a file with a proxy joined: `name`, `instance` and the proxy's section are set, all
/// else stays as it was, comments too.
#[must_use]
pub fn with_joined(
    text: &str,
    name: &str,
    instance: &[u8; 16],
    address: &str,
    pins: &[Pin],
    token_file: &str,
) -> String {
    let (mut top, mut sections) = (String::new(), String::new());
    let (mut in_section, mut replaced) = (false, false);
    for line in text.lines() {
        if let Some(found) = section(line.trim()) {
            in_section = true;
            replaced = found == Ok(address);
        }
        let key = split(line.trim()).0;
        let set_anew = !in_section && matches!(key, "name" | "instance");
        if replaced || set_anew {
            continue;
        }
        let part = if in_section { &mut sections } else { &mut top };
        part.push_str(line);
        part.push('\n');
    }
    let instance = HEXLOWER.encode(instance);
    let mut text = format!("{top}name {name}\ninstance {instance}\n{sections}");
    text.push_str(&format!("\n[proxy {address}]\n"));
    for pin in pins {
        text.push_str(&format!("pin {pin}\n"));
    }
    text.push_str(&format!("token-file {token_file}\n"));
    text
}

/// The text of a file with the shares of `added` in it; others of the same names are replaced, all
/// else stays as it was.
#[must_use]
pub fn with_shares(text: &str, added: &Options) -> String {
    let mut top = String::new();
    if let Some(root) = &added.root {
        top.push_str(&format!("root {}\n", root.display()));
    }
    if added.allow_write {
        top.push_str("allow-write\n");
    }
    for (share, writable) in &added.shares {
        let key = if *writable { "share-rw" } else { "share" };
        top.push_str(&format!("{key} {share}\n"));
    }
    let name_of = |share: &str| share.split('=').next().map(|name| name.trim().to_owned());
    let names: Vec<_> = added.shares.iter().map(|(share, _)| name_of(share)).collect();
    let mut in_section = false;
    for line in text.lines() {
        let (key, value) = split(line.trim());
        in_section |= section(line.trim()).is_some();
        let is_replaced = match key {
            "root" | "allow-write" => added.root.is_some(),
            "share" | "share-rw" => names.contains(&name_of(value)),
            _ => false,
        };
        if in_section || !is_replaced {
            top.push_str(line);
            top.push('\n');
        }
    }
    top
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{super::File, *};

    const PIN: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn parse(text: &str) -> Result<File, (usize, String)> {
        File::parse(text, Path::new("/etc/x"))
    }

    #[test]
    fn join_keeps_what_it_does_not_know() {
        let pin = Pin::parse(PIN).unwrap();
        let first = with_joined("# mine\nroot /srv\n", "nas1", &[7; 16], "a:1", &[pin], "t1");
        let file = parse(&first).unwrap();
        assert!(first.starts_with("# mine\nroot /srv\n"));
        assert_eq!(file.options.name.as_deref(), Some("nas1"));
        assert_eq!(file.instance, Some([7; 16]));
        assert_eq!(file.sections[0].1.pins, [PIN]);

        let second = with_joined(&first, "nas1", &[7; 16], "b:2", &[pin, pin], "t2");
        let again = with_joined(&second, "nas2", &[7; 16], "a:1", &[pin], "t3");
        let file = parse(&again).unwrap();
        assert_eq!(file.options.name.as_deref(), Some("nas2"));
        let addresses: Vec<_> = file.sections.iter().map(|(address, _)| address.as_str()).collect();
        assert_eq!(addresses, ["b:2", "a:1"]);
        assert_eq!(file.sections[0].1.pins.len(), 2);
        assert_eq!(file.sections[1].1.token_file.as_deref(), Some(Path::new("/etc/x/t3")));
    }

    #[test]
    fn shares_are_added_and_replaced_by_name() {
        let text =
            "# mine\nroot /old\nallow-write\nshare a=/a\nshare-rw b = /b\n[proxy a:1]\npin x\n";
        let shares = vec![("b=/c".to_owned(), false), ("d=/d e".to_owned(), true)];
        let added = Options { shares, ..Options::default() };
        let file = parse(&with_shares(text, &added)).unwrap();
        let mut shares = file.options.shares;
        shares.sort();
        let wanted = [("a=/a", false), ("b=/c", false), ("d=/d e", true)];
        assert_eq!(shares, wanted.map(|(share, writable)| (share.to_owned(), writable)));
        assert!(file.options.allow_write && file.sections.len() == 1);
        let added = Options { root: Some("/new".into()), ..Options::default() };
        let file = parse(&with_shares(text, &added)).unwrap();
        assert_eq!(file.options.root.as_deref(), Some(Path::new("/new")));
        assert!(!file.options.allow_write);
        assert_eq!(with_shares(text, &Options::default()), text);
    }
}
