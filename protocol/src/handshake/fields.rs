//! The `Spdy-Tunnel` field: an RFC 9651 Dictionary. Unknown keys are ignored.

use std::time::{Duration, SystemTime};

use sfv::{
    BareItemFromInput, Date, DictSerializer, Integer, KeyRef, Parser, RefBareItem, StringRef,
    visitor::{
        DictionaryVisitor, EntryVisitor, Ignored, InnerListVisitor, ItemVisitor, ParameterVisitor,
    },
};

use super::{Features, HandshakeError, Hello, PEERS, VERSION, Welcome, printable};
use crate::join::is_origin_name;

/// What a dictionary said, key by key.
#[derive(Debug, Default)]
pub(super) struct Fields {
    versions: Vec<i64>,
    can: Features,
    origin: Option<String>,
    instance: Option<Vec<u8>>,
    run: Option<Vec<u8>>,
    epoch: Option<i64>,
    software: Option<String>,
    register: Option<Vec<u8>>,
    id: Option<String>,
    streams: Option<i64>,
    spread: Option<i64>,
    time: Option<i64>,
    peers: Vec<String>,
}

impl Fields {
    pub(super) fn parse(text: &str) -> Result<Self, HandshakeError> {
        let mut fields = Self::default();
        Parser::new(text)
            .parse_dictionary_with_visitor(&mut fields)
            .map_err(|_| HandshakeError::Malformed)?;
        if fields.versions.contains(&VERSION) { Ok(fields) } else { Err(HandshakeError::Version) }
    }

    pub(super) fn into_hello(self) -> Result<Hello, HandshakeError> {
        const MISSING: HandshakeError = HandshakeError::Malformed;
        Ok(Hello {
            origin: self.origin.filter(|name| is_origin_name(name)).ok_or(MISSING)?,
            instance: exactly(self.instance)?.ok_or(MISSING)?,
            run: exactly(self.run)?.ok_or(MISSING)?,
            epoch: self.epoch.and_then(|epoch| u64::try_from(epoch).ok()).ok_or(MISSING)?,
            can: self.can,
            software: self.software.unwrap_or_default(),
            register: exactly(self.register)?,
        })
    }

    pub(super) fn into_welcome(self) -> Result<Welcome, HandshakeError> {
        let number = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
        let since = |seconds: i64| {
            let seconds = Duration::from_secs(u64::try_from(seconds).ok()?);
            SystemTime::UNIX_EPOCH.checked_add(seconds)
        };
        Ok(Welcome {
            id: self.id.unwrap_or_default(),
            can: self.can,
            streams: number(self.streams).unwrap_or(u32::MAX),
            spread: Duration::from_secs(number(self.spread).unwrap_or(0).into()),
            time: self.time.and_then(since),
            peers: self.peers,
        })
    }
}

pub(super) fn of_hello(hello: &Hello) -> String {
    let mut fields = DictSerializer::new();
    put(&mut fields, "v", integer(VERSION));
    text(&mut fields, "origin", &hello.origin);
    put(&mut fields, "instance", hello.instance.as_slice());
    put(&mut fields, "run", hello.run.as_slice());
    put(&mut fields, "epoch", integer(i64::try_from(hello.epoch).unwrap_or(i64::MAX)));
    list_of_features(&mut fields, hello.can);
    text(&mut fields, "software", &hello.software);
    if let Some(hash) = &hello.register {
        put(&mut fields, "register", hash.as_slice());
    }
    fields.finish().unwrap_or_default()
}

pub(super) fn of_welcome(welcome: &Welcome) -> String {
    let mut fields = DictSerializer::new();
    put(&mut fields, "v", integer(VERSION));
    text(&mut fields, "id", &welcome.id);
    list_of_features(&mut fields, welcome.can);
    put(&mut fields, "streams", Integer::from(welcome.streams));
    let spread = i64::try_from(welcome.spread.as_secs()).unwrap_or(i64::MAX);
    put(&mut fields, "spread", integer(spread));
    let since = welcome.time.and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    if let Some(since) = since {
        let seconds = integer(i64::try_from(since.as_secs()).unwrap_or(i64::MAX));
        put(&mut fields, "time", Date::from_unix_seconds(seconds));
    }
    if !welcome.peers.is_empty() {
        list(&mut fields, "peers", welcome.peers.iter().take(PEERS).map(String::as_str));
    }
    fields.finish().unwrap_or_default()
}

fn list_of_features(fields: &mut DictSerializer<String>, can: Features) {
    let names = [("stored", can.stored), ("upgrade", can.upgrade), ("splice", can.splice)];
    list(fields, "can", names.into_iter().filter(|(_, able)| *able).map(|(name, _)| name));
}

fn list<'t>(
    fields: &mut DictSerializer<String>,
    name: &'static str,
    texts: impl Iterator<Item = &'t str>,
) {
    let mut list = fields.inner_list(key(name));
    for text in texts {
        if let Ok(text) = StringRef::from_str(&printable(text)) {
            let _no_parameters = list.bare_item(text);
        }
    }
    let _no_parameters = list.finish();
}

fn text(fields: &mut DictSerializer<String>, name: &'static str, value: &str) {
    let value = printable(value);
    if let Ok(value) = StringRef::from_str(&value) {
        put(fields, name, RefBareItem::String(value));
    }
}

fn put<'v>(
    fields: &mut DictSerializer<String>,
    name: &'static str,
    value: impl Into<RefBareItem<'v>>,
) {
    let _no_parameters = fields.bare_item(key(name), value);
}

/// Numbers beyond what the format carries (15 digits) are cut to it.
fn integer(value: i64) -> Integer {
    Integer::try_from(value).unwrap_or(if value < 0 { Integer::MIN } else { Integer::MAX })
}

fn key(name: &'static str) -> &'static KeyRef {
    KeyRef::from_str(name).expect("the keys of this file are lower-case words")
}

fn exactly<const N: usize>(octets: Option<Vec<u8>>) -> Result<Option<[u8; N]>, HandshakeError> {
    octets.map(|octets| octets.try_into().map_err(|_| HandshakeError::Malformed)).transpose()
}

type Never = std::convert::Infallible;

impl<'de> DictionaryVisitor<'de> for Fields {
    type Error = Never;

    fn entry(&mut self, key: &'de KeyRef) -> Result<impl EntryVisitor<'de>, Never> {
        Ok(Entry { key: key.as_str(), fields: self })
    }
}

/// One entry, or one item of its inner list.
struct Entry<'k, 'f> {
    key: &'k str,
    fields: &'f mut Fields,
}

impl Entry<'_, '_> {
    /// Values of another type than the key has are as good as absent.
    fn set(&mut self, item: BareItemFromInput<'_>) {
        match item {
            BareItemFromInput::Integer(value) => {
                let value = i64::from(value);
                match self.key {
                    "v" => self.fields.versions.push(value),
                    "epoch" => self.fields.epoch = Some(value),
                    "streams" => self.fields.streams = Some(value),
                    "spread" => self.fields.spread = Some(value),
                    _ => {}
                }
            }
            BareItemFromInput::Date(date) if self.key == "time" => {
                self.fields.time = Some(i64::from(date.unix_seconds()));
            }
            BareItemFromInput::String(text) => {
                let text = printable(text.as_str());
                match self.key {
                    "origin" => self.fields.origin = Some(text),
                    "software" => self.fields.software = Some(text),
                    "id" => self.fields.id = Some(text),
                    "peers" if self.fields.peers.len() < PEERS => self.fields.peers.push(text),
                    "can" => match text.as_str() {
                        "stored" => self.fields.can.stored = true,
                        "upgrade" => self.fields.can.upgrade = true,
                        "splice" => self.fields.can.splice = true,
                        _ => {}
                    },
                    _ => {}
                }
            }
            BareItemFromInput::ByteSequence(octets) => match self.key {
                "instance" => self.fields.instance = Some(octets),
                "run" => self.fields.run = Some(octets),
                "register" => self.fields.register = Some(octets),
                _ => {}
            },
            _ => {}
        }
    }
}

impl<'de> ItemVisitor<'de> for Entry<'_, '_> {
    type Error = Never;

    fn bare_item(
        mut self,
        item: BareItemFromInput<'de>,
    ) -> Result<impl ParameterVisitor<'de>, Never> {
        self.set(item);
        Ok(Ignored)
    }
}

impl<'de> EntryVisitor<'de> for Entry<'_, '_> {
    fn inner_list(self) -> Result<impl InnerListVisitor<'de>, Never> {
        Ok(self)
    }
}

impl<'de> InnerListVisitor<'de> for Entry<'_, '_> {
    type Error = Never;

    fn item(&mut self) -> Result<impl ItemVisitor<'de>, Never> {
        Ok(Entry { key: self.key, fields: self.fields })
    }

    fn finish(self) -> Result<impl ParameterVisitor<'de>, Never> {
        Ok(Ignored)
    }
}
