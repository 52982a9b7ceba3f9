//! The text of a configuration with a proxy added, for `join`.
//!
//! What a line means is [`super`]'s; lines that are not replaced stay as they were, comments too.

use spdy_protocol::digits::HEX;

use super::file::{section, split};
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
    let instance = HEX.encode(instance);
    let mut text = format!("{top}name {name}\ninstance {instance}\n{sections}");
    text.push_str(&format!("\n[proxy {address}]\n"));
    for pin in pins {
        text.push_str(&format!("pin {pin}\n"));
    }
    text.push_str(&format!("token-file {token_file}\n"));
    text
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
}
