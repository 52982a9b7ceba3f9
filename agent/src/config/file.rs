//! The format of the configuration file: one `key value` a line, keys are the long flags,
//! `include FILE`, `[proxy ADDRESS]` sections with their own keys.

use std::{
    fs,
    path::{Path, PathBuf},
};

use spdy_protocol::digits::HEX_ANY_CASE;

use super::{Access, ConfigError, Options, default_path};
use crate::origin::forward::Service;

/// A configuration file that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct File {
    /// What stands above the sections.
    pub options: Options,
    /// `instance`: 128 bits made by join.
    pub instance: Option<[u8; 16]>,
    /// `[proxy ADDRESS]`.
    pub sections: Vec<(String, Access)>,
}

/// Where a line stands.
#[derive(Clone, Copy)]
struct Place<'a> {
    /// Relative paths start here.
    folder: &'a Path,
    in_section: bool,
    is_included: bool,
}

impl File {
    /// Reads the file that was named, or the first default that exists; nothing if none does.
    ///
    /// # Errors
    /// The file cannot be read ([`ConfigError::Failure`]) or is wrong ([`ConfigError::Usage`]).
    pub fn load(named: Option<&Path>) -> Result<Self, ConfigError> {
        let Some(path) = named.map(Path::to_owned).or_else(default_path) else {
            return Ok(Self::default());
        };
        let text = fs::read_to_string(&path)
            .map_err(|error| ConfigError::Failure(format!("{}: {error}", path.display())))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        Self::parse(&text, folder).map_err(|(line, problem)| {
            ConfigError::Usage(format!("{}:{line}: {problem}", path.display()))
        })
    }

    /// Reads a text; relative paths in it start at `folder`.
    ///
    /// # Errors
    /// Number and problem of the first line that is wrong.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, (usize, String)> {
        let mut file = Self::default();
        file.read(text, Place { folder, in_section: false, is_included: false })?;
        Ok(file)
    }

    /// Files that tokens are from.
    pub fn token_files(&self) -> impl Iterator<Item = &Path> {
        let sections = self.sections.iter().map(|(_, access)| access);
        let all = std::iter::once(&self.options.access).chain(sections);
        all.filter_map(|access| access.token_file.as_deref())
    }

    fn read(&mut self, text: &str, mut place: Place<'_>) -> Result<(), (usize, String)> {
        for (at, line) in text.lines().enumerate() {
            self.take(line.trim(), &mut place).map_err(|problem| (at + 1, problem))?;
        }
        Ok(())
    }

    /// Reads another file in place of its line; sections that begin there end there.
    fn include(&mut self, path: &Path) -> Result<(), String> {
        let shown = path.display();
        let text = fs::read_to_string(path).map_err(|error| format!("include {shown}: {error}"))?;
        let folder = path.parent().unwrap_or(Path::new("."));
        let place = Place { folder, in_section: false, is_included: true };
        self.read(&text, place).map_err(|(line, problem)| format!("{shown}:{line}: {problem}"))
    }

    fn take(&mut self, line: &str, place: &mut Place<'_>) -> Result<(), String> {
        if line.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if let Some(address) = section(line) {
            let address = address?;
            if self.sections.iter().any(|(known, _)| known == address) {
                return Err(format!("proxy {address} has a second section"));
            }
            self.sections.push((address.to_owned(), Access::default()));
            place.in_section = true;
            return Ok(());
        }
        let (key, value) = split(line);
        let Place { folder, in_section, is_included } = *place;
        let access = match self.sections.last_mut() {
            Some((_, access)) if in_section => access,
            _ => &mut self.options.access,
        };
        match key {
            "ca" => return once(&mut access.ca, key, path(key, value, folder)?),
            "token-file" => return once(&mut access.token_file, key, path(key, value, folder)?),
            "cert" => return once(&mut access.cert, key, path(key, value, folder)?),
            "key" => return once(&mut access.key, key, path(key, value, folder)?),
            "pin" => {
                access.pins.push(word(key, value)?.to_owned());
                return Ok(());
            }
            "insecure" => {
                access.insecure = switch(key, value)?;
                return Ok(());
            }
            _ if in_section => return Err(format!("unknown key {key} in a proxy section")),
            "include" if is_included => return Err("an included file includes none".to_owned()),
            "include" => return self.include(&path(key, value, folder)?),
            _ => {}
        }
        let options = &mut self.options;
        match key {
            "root" => once(&mut options.root, key, path(key, value, folder)?),
            "name" => once(&mut options.name, key, word(key, value)?.to_owned()),
            "log" => once(&mut options.log, key, word(key, value)?.to_owned()),
            "share" | "share-rw" => {
                let (name, at) = word(key, value)?
                    .split_once('=')
                    .ok_or_else(|| format!("{key} {value} is not NAME=PATH"))?;
                let share = format!("{}={}", name.trim(), folder.join(at.trim()).display());
                options.shares.push((share, key == "share-rw"));
                Ok(())
            }
            "follow-into" => {
                options.follow_into.push(path(key, value, folder)?);
                Ok(())
            }
            "max-upload" => {
                let octets = word(key, value)?.parse();
                let octets = octets.map_err(|_| format!("{key} {value} is no number of octets"))?;
                once(&mut options.max_upload, key, octets)
            }
            "upload-owner" => once(&mut options.upload_owner, key, word(key, value)?.to_owned()),
            "upload-umask" => once(&mut options.upload_umask, key, word(key, value)?.to_owned()),
            "show-hidden" => {
                options.show_hidden = switch(key, value)?;
                Ok(())
            }
            "no-index" => {
                options.no_index = switch(key, value)?;
                Ok(())
            }
            "proxy" => {
                options.proxies.push(word(key, value)?.to_owned());
                Ok(())
            }
            "follow-peers" => {
                options.follow_peers = switch(key, value)?;
                Ok(())
            }
            "forward" => {
                Service::parse(value)?;
                options.forwards.push(value.to_owned());
                Ok(())
            }
            "allow-write" => {
                options.allow_write = switch(key, value)?;
                Ok(())
            }
            "session-debug" => {
                options.session_debug = switch(key, value)?;
                Ok(())
            }
            "instance" => {
                let octets = HEX_ANY_CASE.decode(word(key, value)?);
                let octets = octets.and_then(|octets| octets.try_into().ok());
                let octets = octets.ok_or("instance is not 32 hexadecimal digits")?;
                once(&mut self.instance, key, octets)
            }
            _ => Err(format!("unknown key {key}")),
        }
    }
}

/// `[proxy ADDRESS]`; `None` if the line is no section at all.
pub(super) fn section(line: &str) -> Option<Result<&str, String>> {
    let inner = line.strip_prefix('[')?;
    let address = inner.strip_suffix(']').and_then(|inner| inner.trim().strip_prefix("proxy "));
    Some(address.map(str::trim).ok_or_else(|| format!("{line} is not [proxy ADDRESS]")))
}

pub(super) fn split(line: &str) -> (&str, &str) {
    line.split_once(char::is_whitespace).map_or((line, ""), |(key, value)| (key, value.trim()))
}

fn word<'a>(key: &str, value: &'a str) -> Result<&'a str, String> {
    if value.is_empty() { Err(format!("{key} has no value")) } else { Ok(value) }
}

fn path(key: &str, value: &str, folder: &Path) -> Result<PathBuf, String> {
    word(key, value).map(|value| folder.join(value))
}

fn switch(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "yes" => Ok(true),
        "no" => Ok(false),
        _ => Err(format!("{key} {value} is neither yes nor no")),
    }
}

fn once<T>(slot: &mut Option<T>, key: &str, value: T) -> Result<(), String> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(format!("{key} is given twice")),
    }
}
