//! A folder for programs (`format=json`).
//!
//! `{"path":"/films/","entries":[...],"next":"./?format=json&after=f.x"}`, an entry being
//! `{"name":"a b.mkv","type":"file","media_type":"video/matroska","size":5,
//! "modified":"2026-01-02T03:04:05Z","href":"./a%20b.mkv"}`. What a folder does not have, and what
//! is not known, is null. A name that is no UTF-8 is written with replacement characters; its
//! `href` is exact.

use super::{
    super::{
        listing::{Entry, Listing},
        mime,
        path::{Target, encode_segment},
    },
    html::segments,
    text::{push_json, rfc3339},
    view::{Form, View},
};

/// All before the first entry.
pub(crate) fn head(target: &Target) -> String {
    let mut path = "/".to_owned();
    for segment in segments(target) {
        path.push_str(&String::from_utf8_lossy(segment));
        path.push('/');
    }
    let mut out = "{\"path\":".to_owned();
    push_json(&mut out, &path);
    out.push_str(",\"entries\":[");
    out
}

/// An entry.
pub(crate) fn entry(entry: &Entry, name: &[u8], is_first: bool) -> String {
    let mut out = if is_first { "\n{\"name\":" } else { ",\n{\"name\":" }.to_owned();
    push_json(&mut out, &String::from_utf8_lossy(name));
    if entry.is_folder() {
        out.push_str(",\"type\":\"folder\",\"media_type\":null,\"size\":null");
    } else {
        out.push_str(",\"type\":\"file\",\"media_type\":");
        push_json(&mut out, mime::media_type(name));
        out.push_str(&format!(",\"size\":{}", entry.size));
    }
    out.push_str(",\"modified\":");
    match rfc3339(entry.modified) {
        Some(time) => push_json(&mut out, &time),
        None => out.push_str("null"),
    }
    let slash = if entry.is_folder() { "/" } else { "" };
    out.push_str(",\"href\":");
    push_json(&mut out, &format!("./{}{slash}", encode_segment(name)));
    out.push('}');
    out
}

/// All behind the last entry.
pub(crate) fn foot(view: &View, listing: &Listing) -> String {
    let mut out = "\n],\"next\":".to_owned();
    match &listing.next {
        Some(next) if !view.all => {
            push_json(&mut out, &view.link(Form::Json, view.order, Some(next)));
        }
        _ => out.push_str("null"),
    }
    out + "}\n"
}
