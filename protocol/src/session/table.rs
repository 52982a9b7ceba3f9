//! The bounded table of streams: slots that are used again, found by id.
//!
//! A [`Key`] names a slot and the id in it, so a slot that was used again is not mistaken. It does
//! not know what a stream is.

use heapless::LinearMap;

use crate::{frame::StreamId, limits::STREAMS};

/// Names a stream of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    slot: u8,
    /// Id of the stream.
    pub id: StreamId,
}

impl Key {
    /// Number of the slot, below [`STREAMS`].
    #[must_use]
    pub fn slot(self) -> usize {
        usize::from(self.slot)
    }
}

/// Streams by slot; slots are made when they are needed first.
#[derive(Debug)]
pub(super) struct Table<S> {
    slots: Vec<Option<Box<(StreamId, S)>>>,
    by_id: LinearMap<StreamId, u8, STREAMS>,
    limit: usize,
}

impl<S> Table<S> {
    pub(super) const fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), by_id: LinearMap::new(), limit }
    }

    /// Adds a stream.
    ///
    /// # Panics
    /// When the table is full; callers ask [`Table::is_full`] first.
    pub(super) fn insert(&mut self, id: StreamId, stream: S) -> Key {
        let free = self.slots.iter().position(Option::is_none);
        let at = free.unwrap_or_else(|| {
            self.slots.push(None);
            self.slots.len() - 1
        });
        self.slots[at] = Some(Box::new((id, stream)));
        let slot = u8::try_from(at).expect("STREAMS is below 256 and is_full() was asked");
        let inserted = self.by_id.insert(id, slot);
        assert!(inserted.is_ok(), "is_full() was asked");
        Key { slot, id }
    }

    pub(super) fn remove(&mut self, key: Key) {
        if self.get(key).is_some() {
            self.by_id.remove(&key.id);
            self.slots[key.slot()] = None;
            if self.by_id.is_empty() {
                // An idle tunnel holds nothing.
                self.slots = Vec::new();
            }
        }
    }

    pub(super) fn find(&self, id: StreamId) -> Option<Key> {
        self.by_id.get(&id).map(|slot| Key { slot: *slot, id })
    }

    pub(super) fn get(&self, key: Key) -> Option<&S> {
        let entry = self.slots.get(key.slot())?.as_deref()?;
        (entry.0 == key.id).then_some(&entry.1)
    }

    pub(super) fn get_mut(&mut self, key: Key) -> Option<&mut S> {
        let entry = self.slots.get_mut(key.slot())?.as_deref_mut()?;
        (entry.0 == key.id).then_some(&mut entry.1)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &S)> {
        self.slots.iter().zip(0u8..).filter_map(|(entry, slot)| {
            let (id, stream) = entry.as_deref()?;
            Some((Key { slot, id: *id }, stream))
        })
    }

    /// All keys, for loops that change the table.
    pub(super) fn keys(&self) -> Vec<Key> {
        self.iter().map(|(key, _)| key).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn is_full(&self) -> bool {
        self.by_id.len() >= self.limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slot_that_was_used_again_is_not_mistaken() {
        let mut table = Table::new(2);
        let id = |n| StreamId::new(n).unwrap();
        let first = table.insert(id(1), 'a');
        table.insert(id(3), 'b');
        assert!(table.is_full());
        table.remove(first);
        let third = table.insert(id(5), 'c');
        assert_eq!(third.slot(), first.slot());
        assert_eq!((table.get(first), table.get(third)), (None, Some(&'c')));
        table.remove(first);
        assert_eq!((table.len(), table.find(id(5))), (2, Some(third)));
    }
}
