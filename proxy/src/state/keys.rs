//! The key of the tunnel port and its spares.
//!
//! A spare key lies elsewhere, so that who steals or loses the server's does not have it; its pin
//! is known here and goes out with each join code. It owns making a spare and taking one into use.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use spdy_protocol::join;

use super::{Port, State, StateError, read, replace};
use crate::{
    config,
    tls::{IdentityError, Made},
};

impl State {
    /// The pins that agents may see: of the key in use, then of the spare ones.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn pins(&self) -> Result<Vec<[u8; 32]>, StateError> {
        let mut pins = vec![self.identity(Port::Tunnel)?.pin()];
        pins.extend(self.spares()?);
        Ok(pins)
    }

    /// Makes a spare key, writes it to `file`, which must not exist (mode 0600), and returns its
    /// pin. Join codes carry it from now on.
    ///
    /// # Errors
    /// [`StateError`].
    pub fn make_spare(&self, file: &Path) -> Result<[u8; 32], StateError> {
        let failed = |error| StateError::Identity(file.to_owned(), error);
        let made = Made::new(&NAMES).map_err(failed)?;
        let pin = made.identity().map_err(failed)?.pin();
        let _lock = self.lock()?;
        let mut spares = self.spares()?;
        if spares.len() >= SPARES {
            return Err(StateError::Spares);
        }
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(file)
            .and_then(|mut file| {
                file.write_all(made.key.as_bytes())?;
                file.sync_all()
            })
            .map_err(|error| StateError::Io(file.to_owned(), error))?;
        spares.push(pin);
        self.write_spares(&spares)?;
        Ok(pin)
    }

    /// Makes the spare key in `file` the key of the tunnel port, with a certificate that it signed
    /// itself, and returns its pin. What was in use is kept as `key.pem.old` and `cert.pem.old`.
    /// A server takes it up when it starts.
    ///
    /// # Errors
    /// [`StateError::StrangeKey`] when no join code has carried its pin.
    pub fn use_spare(&self, file: &Path) -> Result<[u8; 32], StateError> {
        let failed = |error| StateError::Identity(file.to_owned(), error);
        let key = String::from_utf8(read(file)?).map_err(|_| failed(IdentityError::Key))?;
        let made = Made::of(&key, &NAMES).map_err(failed)?;
        let pin = made.identity().map_err(failed)?.pin();
        let _lock = self.lock()?;
        let mut spares = self.spares()?;
        let at = spares.iter().position(|spare| *spare == pin);
        spares.remove(at.ok_or(StateError::StrangeKey(pin))?);
        for name in ["cert.pem", "key.pem"] {
            let path = self.folder.join(name);
            if super::exists(&path)? {
                replace(&path.with_extension("pem.old"), &read(&path)?)?;
            }
        }
        // After a crash between the two, `identity` says that they do not belong together, and the
        // spare is still known.
        replace(&self.folder.join("cert.pem"), made.certificate.as_bytes())?;
        replace(&self.folder.join("key.pem"), made.key.as_bytes())?;
        self.write_spares(&spares)?;
        Ok(pin)
    }

    fn spares(&self) -> Result<Vec<[u8; 32]>, StateError> {
        let path = self.spares_path();
        if !super::exists(&path)? {
            return Ok(Vec::new());
        }
        let text = String::from_utf8_lossy(&read(&path)?).into_owned();
        let pin =
            |entry: config::Entry| HEXLOWER.decode(entry.value.as_bytes()).ok()?.try_into().ok();
        Ok(config::parse(&text).into_iter().filter_map(pin).take(SPARES).collect())
    }

    fn write_spares(&self, spares: &[[u8; 32]]) -> Result<(), StateError> {
        let lines = spares.iter().map(|pin| format!("pin {}\n", HEXLOWER.encode(pin)));
        replace(&self.spares_path(), lines.collect::<String>().as_bytes())
    }

    fn spares_path(&self) -> PathBuf {
        self.folder.join("spare-pins")
    }
}

/// Names in the certificates that we make; agents that pin ignore them.
pub(super) const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];
/// Spare keys whose pins a join code has room for, beside that of the key in use.
pub(super) const SPARES: usize = join::PINS - 1;

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::{super::tests::Folder, *};

    #[test]
    fn a_spare_key_lies_elsewhere_and_takes_the_place_of_the_one_in_use() {
        let folder = Folder::new("spare");
        let state = State::open(&folder.0).unwrap();
        let first = state.identity(Port::Tunnel).unwrap().pin();
        let file = folder.0.join("elsewhere.pem");
        let spare = state.make_spare(&file).unwrap();
        assert_eq!(state.pins().unwrap(), [first, spare]);
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(state.make_spare(&file), Err(StateError::Io(..))));
        assert_eq!(state.use_spare(&file).unwrap(), spare);
        assert_eq!(state.pins().unwrap(), [spare]);
        assert_eq!(state.identity(Port::Tunnel).unwrap().pin(), spare);
        // It is a spare no more; what was in use is none that agents were told to expect again.
        assert!(matches!(state.use_spare(&file), Err(StateError::StrangeKey(pin)) if pin == spare));
        let old = folder.0.join("key.pem.old");
        assert!(matches!(state.use_spare(&old), Err(StateError::StrangeKey(pin)) if pin == first));
        let garbage = folder.0.join("garbage");
        fs::write(&garbage, "garbage").unwrap();
        assert!(matches!(state.use_spare(&garbage), Err(StateError::Identity(..))));
    }

    #[test]
    fn there_are_as_many_spares_as_a_join_code_has_room_for() {
        let folder = Folder::new("spares");
        let state = State::open(&folder.0).unwrap();
        for n in 0..SPARES {
            state.make_spare(&folder.0.join(format!("spare-{n}"))).unwrap();
        }
        let more = folder.0.join("more");
        assert!(matches!(state.make_spare(&more), Err(StateError::Spares)));
        assert!(!more.exists());
        assert_eq!(state.pins().unwrap().len(), join::PINS);
    }
}
