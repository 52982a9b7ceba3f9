//! Which origin a request is for, and the tunnel that leads there.
//!
//! It owns the table of origins, with the rule of access of each, and their counters; `origin` owns
//! who holds a name. It does not own the credentials ([`crate::state`]), their check
//! ([`crate::access`]) nor the tunnels' I/O (`crate::upstream`).

mod origin;

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::SystemTime,
};

use rustls::pki_types::CertificateDer;
use spdy_protocol::{frame::Reason, handshake::Features, tunnel::Tunnel};

use self::origin::Origin;
pub(crate) use self::origin::{Refusal, Rules, Seat, Verdict};
use crate::{access::Access, hold::Hold, state::OriginState};

/// All origins. Bounded by the paired ones plus one, the anonymous.
#[derive(Debug, Default)]
pub struct Registry {
    table: RwLock<Table>,
    next_id: AtomicU64,
    tickets: AtomicU64,
    /// What the process has done since it began.
    pub(crate) totals: Totals,
}

/// Requests by status class, and what failed.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    /// Responses, by the first digit of their status minus one.
    classes: [AtomicU64; 5],
    /// Exchanges that ended otherwise than their visitor or their agent wanted.
    failed: AtomicU64,
    /// Handshakes of agents that were refused or came to nothing.
    refused: AtomicU64,
}

/// One tunnel and what is known of its agent.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Unique in the process.
    pub(crate) id: u64,
    /// Name of the origin.
    pub(crate) origin: String,
    /// The tunnel.
    pub(crate) tunnel: Tunnel,
    /// What both ends can do.
    pub(crate) features: Features,
    /// What the agent says it is; a peer's text.
    pub(crate) software: String,
    /// Where it dialled from.
    pub(crate) peer: SocketAddr,
    /// When it came.
    pub(crate) since: SystemTime,
    /// Which connection of which process it is; `None` for nameless agents.
    pub(crate) run: Option<Run>,
    /// What let it in: it has to go when that changes. `None`: nothing did.
    pub(crate) proof: Option<Proof>,
    /// Whether it waits for another one to go.
    pub(crate) is_standby: AtomicBool,
    /// Requests of this tunnel.
    pub(crate) totals: Totals,
}

/// How an agent has proven who it is.
#[derive(Clone, Debug)]
pub(crate) struct Proof {
    /// Of the record that it was checked against.
    pub(crate) generation: u64,
    /// Its certificate with those below the authority; `None`: it showed a token.
    pub(crate) chain: Option<Vec<CertificateDer<'static>>>,
}

/// A process of an agent and its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    /// Random per installation.
    pub(crate) instance: [u8; 16],
    /// Random per process.
    pub(crate) run: [u8; 8],
    /// Counts the connections of the process.
    pub(crate) epoch: u64,
}

/// A visitor's way: past the rule, then along the route. Whoever the rule keeps out learns nothing
/// of the route.
#[derive(Clone, Debug)]
pub(crate) struct Way {
    /// Which visitors may come in.
    pub(crate) access: Access,
    /// Where a request goes.
    pub(crate) route: Route,
    /// Where a request waits that goes nowhere yet; `None` when no origin has the name, and when its
    /// agent was revoked.
    pub(crate) hold: Option<Arc<Hold>>,
}

/// Where a request goes.
#[derive(Clone, Debug)]
pub(crate) enum Route {
    /// To this tunnel.
    Tunnel(Arc<Upstream>),
    /// Its origin is known and not here; since when, if it ever was.
    Away(Option<SystemTime>),
    /// No origin has this name.
    Unknown,
}

/// A moment at which somebody began to read the state folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Ticket(u64);

#[derive(Debug)]
struct Table {
    origins: HashMap<String, Origin>,
    /// The way for hosts that name no origin.
    unnamed: Way,
    /// When the paired names were read.
    paired: Ticket,
}

impl Registry {
    /// An empty table.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An id for a new tunnel.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Relaxed) + 1
    }

    /// To be drawn before the state folder is read for [`Registry::set_paired`].
    pub(crate) fn ticket(&self) -> Ticket {
        Ticket(self.tickets.fetch_add(1, Relaxed) + 1)
    }

    /// The origins that agents were paired for, so that a name is known while its agent is away,
    /// with their rules. Tunnels that were let in by what has been revoked or replaced are cut.
    /// What was read before others that came first is dropped: a password that was changed must
    /// not come back.
    /// Returns the names whose records have become unreadable, with the reason.
    pub(crate) fn set_paired(
        &self,
        read: Ticket,
        paired: impl IntoIterator<Item = OriginState>,
    ) -> Vec<(String, String)> {
        let mut table = self.write();
        if read < table.paired {
            return Vec::new();
        }
        let (mut void, mut damaged) = (Vec::new(), Vec::new());
        table.paired = read;
        for origin in table.origins.values_mut() {
            origin.paired = false;
        }
        for OriginState { name, access, generation, revoked, unreadable, .. } in paired {
            let is_unreadable = unreadable.is_some();
            let is_known = table.origins.get(&name).is_some_and(|origin| origin.unreadable);
            if let Some(reason) = unreadable.filter(|_| !is_known) {
                damaged.push((name.clone(), reason));
            }
            let origin = table.origins.entry(name).or_default();
            origin.paired = true;
            let was_revoked = origin.revoked;
            (origin.unreadable, origin.revoked) =
                (is_unreadable, revoked.is_some() || is_unreadable);
            if origin.revoked && !was_revoked {
                origin.hold.wake();
            }
            // An equal password stays the same value, which knows its right credentials.
            if origin.access != access {
                origin.access = access;
            }
            let is_void = |upstream: &&Arc<Upstream>| {
                let proof = upstream.proof.as_ref();
                proof.is_some_and(|proof| is_unreadable || proof.generation != generation)
            };
            void.extend(origin.upstreams().filter(is_void).map(Arc::clone));
        }
        for origin in table.origins.values().filter(|origin| !origin.paired) {
            let has_proof = |upstream: &&Arc<Upstream>| upstream.proof.is_some();
            void.extend(origin.upstreams().filter(has_proof).map(Arc::clone));
        }
        table.origins.retain(|name, origin| {
            let stays = origin.paired || origin.upstreams().next().is_some() || name == ANONYMOUS;
            if !stays {
                origin.hold.wake();
            }
            stays
        });
        for (name, origin) in &mut table.origins {
            if !origin.paired && name != ANONYMOUS {
                origin.access = Access::Locked;
            }
        }
        table.find_unnamed();
        drop(table);
        void.iter().for_each(|upstream| upstream.cut());
        damaged
    }

    /// Expects these origins back: they were here before this process was.
    pub(crate) fn expect<'n>(&self, names: impl IntoIterator<Item = &'n str>) {
        let table = self.read();
        let origins = names.into_iter().filter_map(|name| table.origins.get(name));
        origins.filter(|origin| !origin.is_here()).for_each(|origin| origin.hold.lose());
    }

    /// Whether there is a record of this name.
    pub(crate) fn is_paired(&self, origin: &str) -> bool {
        self.read().origins.get(origin).is_some_and(|origin| origin.paired)
    }

    /// What becomes of a connection to `origin` whose agent has proven who it is.
    pub(crate) fn judge(&self, origin: &str, run: Option<&Run>, rules: Rules) -> Verdict {
        let table = self.read();
        table.origins.get(origin).map_or(Verdict::Enter, |held| held.judge(origin, run, rules))
    }

    /// Whether a connection to `origin` may wait behind the one in use.
    pub(crate) fn has_room_behind(&self, origin: &str, run: Option<&Run>, rules: Rules) -> bool {
        let table = self.read();
        table.origins.get(origin).is_some_and(|origin| origin.has_room_behind(run, rules))
    }

    /// Takes a tunnel in, and says where; whom it displaces is drained. `beaten`: the holder that
    /// did not answer when it was asked whether it is alive.
    ///
    /// # Errors
    /// [`Refusal`]: others came between.
    pub(crate) fn enter(
        &self,
        upstream: Arc<Upstream>,
        beaten: Option<u64>,
        rules: Rules,
    ) -> Result<Seat, Refusal> {
        let mut table = self.write();
        let origin = table.origins.entry(upstream.origin.clone()).or_default();
        if upstream.origin == ANONYMOUS {
            // Whom would its password belong to?
            origin.access = Access::Open;
        }
        let seat = origin.enter(upstream, beaten, rules);
        let hold = Arc::clone(&origin.hold);
        table.find_unnamed();
        // Who waits finds the way when it has the lock.
        hold.wake();
        seat
    }

    /// A tunnel has ended. Returns the one that takes its place, if one waited for that.
    pub(crate) fn remove(&self, upstream: &Upstream) -> Option<Arc<Upstream>> {
        let mut table = self.write();
        let origin = table.origins.get_mut(&upstream.origin)?;
        let follows = origin.remove(upstream);
        // The anonymous are no more than others that may come back; nobody unpairs them.
        if !origin.paired && origin.upstreams().next().is_none() && upstream.origin != ANONYMOUS {
            origin.hold.wake();
            table.origins.remove(&upstream.origin);
        }
        table.find_unnamed();
        follows
    }

    /// The way for `host` (with or without port): to the origin of its first label, else to the
    /// only one there is, else to the only open one that is connected.
    pub(crate) fn way(&self, host: &str) -> Way {
        let table = self.read();
        let named = Label::of(host).and_then(|label| table.origins.get(label.as_str()));
        named.map_or_else(|| table.unnamed.clone(), Origin::way)
    }

    /// How many origins have a rule that `is` so.
    pub(crate) fn count_access(&self, is: impl Fn(&Access) -> bool) -> usize {
        self.read().origins.values().filter(|origin| is(&origin.access)).count()
    }

    /// All tunnels by origin: of each the one in use, the one that waits, those that finish.
    pub(crate) fn upstreams(&self) -> Vec<Arc<Upstream>> {
        let table = self.read();
        let mut all: Vec<_> =
            table.origins.values().flat_map(Origin::upstreams).map(Arc::clone).collect();
        // Stable: the order of each origin's own stays.
        all.sort_by(|one, other| one.origin.cmp(&other.origin));
        all
    }

    /// Tunnels of an origin that were displaced and finish what they send.
    pub(crate) fn leaving(&self, origin: &str) -> Vec<Arc<Upstream>> {
        self.read().origins.get(origin).map(Origin::leaving).unwrap_or_default()
    }

    /// Names that are known and not here, sorted, with the time they left.
    pub(crate) fn away(&self) -> Vec<(String, Option<SystemTime>)> {
        let table = self.read();
        let mut away: Vec<_> = table
            .origins
            .iter()
            .filter(|(_, origin)| !origin.is_here())
            .map(|(name, origin)| (name.clone(), origin.left))
            .collect();
        away.sort();
        away
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        // Nothing panics while the lock is held, so that poison cannot mean a half-made change.
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Table {
    fn default() -> Self {
        // Nothing is paired yet: whatever the name, it may be here soon.
        let unnamed = Way { access: Access::Open, route: Route::Away(None), hold: None };
        Self { origins: HashMap::new(), unnamed, paired: Ticket::default() }
    }
}

impl Table {
    fn find_unnamed(&mut self) {
        // Of several, only those that are open for all count: that one with a password is
        // connected must not show in what strangers are told. The anonymous count while they are
        // here, or if there is nobody else.
        let counts = |origin: &&Origin| origin.paired || origin.is_here();
        let is_only = self.origins.values().filter(counts).count() <= 1;
        let is_open = |origin: &&Origin| origin.access == Access::Open && origin.is_here();
        let mut origins =
            self.origins.values().filter(counts).filter(|origin| is_only || is_open(origin));
        self.unnamed = match (origins.next(), origins.next()) {
            (Some(one), None) => one.way(),
            (None, _) if is_only => {
                self.origins.get(ANONYMOUS).map_or_else(|| Self::default().unnamed, Origin::way)
            }
            _ => Way { access: Access::Open, route: Route::Unknown, hold: None },
        };
    }
}

impl Upstream {
    /// GOAWAY, and every stream fails now.
    pub(crate) fn cut(&self) {
        self.tunnel.close(Reason::Ok);
    }
}

impl Totals {
    /// A response with this status was begun.
    pub(crate) fn count(&self, status: u16) {
        let class = usize::from(status / 100).clamp(1, 5) - 1;
        self.classes[class].fetch_add(1, Relaxed);
    }

    /// An exchange failed.
    pub(crate) fn count_failed(&self) {
        self.failed.fetch_add(1, Relaxed);
    }

    /// A handshake was refused or came to nothing.
    pub(crate) fn count_refused(&self) {
        self.refused.fetch_add(1, Relaxed);
    }

    /// Responses of 1xx to 5xx.
    pub(crate) fn classes(&self) -> [u64; 5] {
        self.classes.each_ref().map(|count| count.load(Relaxed))
    }

    /// Exchanges that failed.
    pub(crate) fn failed(&self) -> u64 {
        self.failed.load(Relaxed)
    }

    /// Handshakes refused.
    pub(crate) fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }
}

/// First label of a host name, in lower case.
struct Label {
    octets: [u8; LABEL_MAX],
    len: usize,
}

impl Label {
    /// `None` for addresses and for labels that no origin can have.
    fn of(host: &str) -> Option<Self> {
        let end = host.find(['.', ':']).unwrap_or(host.len());
        let label = host.get(..end)?;
        let is_address = host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok();
        if label.is_empty() || label.len() > LABEL_MAX || is_address {
            return None;
        }
        // The address check above misses one with a port; no label of digits only is a name then.
        let digits = label.bytes().all(|octet| octet.is_ascii_digit());
        if digits && host.contains('.') || !label.is_ascii() {
            return None;
        }
        let mut octets = [0; LABEL_MAX];
        octets[..label.len()].copy_from_slice(label.as_bytes());
        octets[..label.len()].make_ascii_lowercase();
        Some(Self { octets, len: label.len() })
    }

    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.octets[..self.len]).unwrap_or_default()
    }
}

/// The origin of agents that do not prove who they are.
pub(crate) const ANONYMOUS: &str = "anonymous";
/// Octets of a DNS label.
const LABEL_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use futures_lite::io::Cursor;
    use spdy_protocol::{
        budget::Budget,
        session::{Config, Profile, Side},
        tunnel::tunnel,
    };

    use super::*;
    use crate::access::Password;

    fn upstream(registry: &Registry, origin: &str, epoch: u64) -> Arc<Upstream> {
        let config = Config::new(Side::Client, Profile::Ours, Arc::new(Budget::new(1 << 20)));
        let (tunnel, _, driver) = tunnel(Cursor::new(Vec::new()), config, Vec::new());
        // Dropping the driver would end the session; the table does not care, these tests do.
        std::mem::forget(driver);
        Arc::new(Upstream {
            id: registry.next_id(),
            origin: origin.to_owned(),
            tunnel,
            features: Features::OURS,
            software: String::new(),
            peer: SocketAddr::from(([127, 0, 0, 1], 1)),
            since: SystemTime::UNIX_EPOCH,
            run: (epoch > 0).then_some(Run { instance: [1; 16], run: [2; 8], epoch }),
            is_standby: AtomicBool::new(false),
            proof: None,
            totals: Totals::default(),
        })
    }

    const RULES: Rules = Rules { standby: false, window: Duration::from_secs(60) };

    fn insert(registry: &Registry, upstream: Arc<Upstream>) -> Result<Seat, Refusal> {
        registry.enter(upstream, None, RULES)
    }

    fn of_box(registry: &Registry, instance: u8, run: u8, epoch: u64) -> Arc<Upstream> {
        let mut upstream = Arc::into_inner(upstream(registry, "nas1", epoch)).unwrap();
        upstream.run = Some(Run { instance: [instance; 16], run: [run; 8], epoch });
        Arc::new(upstream)
    }

    /// The id of the tunnel that a host leads to, or why there is none.
    fn route(registry: &Registry, host: &str) -> Result<u64, &'static str> {
        match registry.way(host).route {
            Route::Tunnel(upstream) => Ok(upstream.id),
            Route::Away(None) => Err("never"),
            Route::Away(Some(_)) => Err("away"),
            Route::Unknown => Err("unknown"),
        }
    }

    fn set_paired(registry: &Registry, paired: &[(&str, Access)]) {
        let origin = |(name, access): &(&str, Access)| OriginState {
            name: (*name).to_owned(),
            joined: true,
            join_left: None,
            access: access.clone(),
            revoked: None,
            unreadable: None,
            generation: 1,
            seen: None,
        };
        registry.set_paired(registry.ticket(), paired.iter().map(origin));
    }

    fn password() -> Access {
        Access::Password(Arc::new(Password::generate("nas1").unwrap().0))
    }

    #[test]
    fn hosts_lead_to_the_origin_of_their_first_label() {
        let registry = Registry::new();
        let (one, two) = (upstream(&registry, "nas1", 1), upstream(&registry, "nas2", 1));
        insert(&registry, Arc::clone(&one)).unwrap();
        insert(&registry, Arc::clone(&two)).unwrap();
        for host in ["nas1", "NAS1:1443", "nas1.example.com", "Nas1.example.com:80", "nas1."] {
            assert_eq!(route(&registry, host), Ok(one.id), "{host}");
        }
        assert_eq!(route(&registry, "nas2.local"), Ok(two.id));
        for host in ["", "example.com", "127.0.0.1:1443", "[::1]:1443", "nas1x", &"x".repeat(300)] {
            assert_eq!(route(&registry, host), Err("unknown"), "{host}");
        }
    }

    #[test]
    fn the_only_origin_answers_for_every_host_that_is_no_other_ones() {
        let registry = Registry::new();
        assert_eq!(route(&registry, "localhost"), Err("never"));
        set_paired(&registry, &[("nas1", Access::Open)]);
        assert_eq!(route(&registry, "localhost"), Err("never"));
        let one = upstream(&registry, "nas1", 1);
        insert(&registry, Arc::clone(&one)).unwrap();
        assert_eq!(route(&registry, "localhost:1443"), Ok(one.id));
        set_paired(&registry, &[("nas1", Access::Open), ("nas2", Access::Open)]);
        assert_eq!(route(&registry, "localhost"), Ok(one.id));
        assert_eq!(route(&registry, "nas2"), Err("never"));
        registry.remove(&one);
        assert_eq!(route(&registry, "nas1"), Err("away"));
        assert_eq!(route(&registry, "localhost"), Err("unknown"));
        assert_eq!(registry.away().len(), 2);
        set_paired(&registry, &[("nas2", Access::Open)]);
        assert_eq!(route(&registry, "nas1"), Err("never"));
    }

    #[test]
    fn hosts_without_a_name_do_not_tell_whether_an_origin_with_a_password_is_here() {
        let registry = Registry::new();
        set_paired(&registry, &[("nas1", password())]);
        assert_eq!(registry.way("localhost").access.name(), "password");
        set_paired(&registry, &[("nas1", password()), ("nas2", Access::Open)]);
        assert_eq!(route(&registry, "localhost"), Err("unknown"));
        let (one, two) = (upstream(&registry, "nas1", 1), upstream(&registry, "nas2", 1));
        insert(&registry, Arc::clone(&one)).unwrap();
        assert_eq!(route(&registry, "localhost"), Err("unknown"));
        insert(&registry, Arc::clone(&two)).unwrap();
        assert_eq!(route(&registry, "localhost"), Ok(two.id));
        registry.remove(&one);
        assert_eq!(route(&registry, "localhost"), Ok(two.id));
    }

    #[test]
    fn origins_without_a_rule_are_locked_and_the_anonymous_is_open() {
        let registry = Registry::new();
        insert(&registry, upstream(&registry, "nas1", 1)).unwrap();
        assert_eq!(registry.way("nas1").access, Access::Locked);
        set_paired(&registry, &[("nas1", Access::Open)]);
        insert(&registry, upstream(&registry, ANONYMOUS, 0)).unwrap();
        assert_eq!(registry.way("nas1").access, Access::Open);
        assert_eq!(registry.count_access(|access| *access == Access::Open), 2);
        // Its record is gone while its tunnel is up.
        set_paired(&registry, &[]);
        assert_eq!(registry.way("nas1").access, Access::Locked);
        assert_eq!(registry.way(ANONYMOUS).access, Access::Open);
    }

    #[test]
    fn a_rule_that_did_not_change_stays_the_same_and_an_old_one_does_not_come_back() {
        let registry = Registry::new();
        let old = password();
        let held = || match registry.way("nas1").access {
            Access::Password(password) => Arc::as_ptr(&password),
            other => panic!("{other:?}"),
        };
        set_paired(&registry, &[("nas1", old.clone())]);
        let first = held();
        set_paired(&registry, &[("nas1", Access::parse(&old.text().unwrap()))]);
        assert_eq!(held(), first);
        let late = registry.ticket();
        let new = password();
        set_paired(&registry, &[("nas1", new.clone())]);
        registry.set_paired(late, []);
        assert_eq!(registry.way("nas1").access, new);
        assert_ne!(held(), first);
    }

    #[test]
    fn who_was_let_in_by_what_is_void_is_cut() {
        let registry = Registry::new();
        let proven = |epoch, generation| {
            let mut made = Arc::into_inner(upstream(&registry, "nas1", epoch)).unwrap();
            made.proof = Some(Proof { generation, chain: None });
            Arc::new(made)
        };
        let (old, new) = (proven(1, 0), proven(2, 1));
        insert(&registry, Arc::clone(&old)).unwrap();
        set_paired(&registry, &[("nas1", Access::Open)]);
        assert!(!old.tunnel.is_open());
        insert(&registry, Arc::clone(&new)).unwrap();
        set_paired(&registry, &[("nas1", Access::Open)]);
        assert!(new.tunnel.is_open());
        // Its record is gone.
        set_paired(&registry, &[]);
        assert!(!new.tunnel.is_open());
    }

    #[test]
    fn a_name_of_digits_is_a_name_and_an_address_is_none() {
        let registry = Registry::new();
        let (one, two) = (upstream(&registry, "127", 1), upstream(&registry, "nas2", 1));
        insert(&registry, Arc::clone(&one)).unwrap();
        insert(&registry, two).unwrap();
        assert_eq!(route(&registry, "127"), Ok(one.id));
        assert_eq!(route(&registry, "127.0.0.1"), Err("unknown"));
        assert_eq!(route(&registry, "127.0.0.1:1443"), Err("unknown"));
    }

    #[test]
    fn the_newest_tunnel_wins_and_a_late_end_of_the_old_one_changes_nothing() {
        let registry = Registry::new();
        let (old, new) = (upstream(&registry, "nas1", 1), upstream(&registry, "nas1", 2));
        insert(&registry, Arc::clone(&old)).unwrap();
        insert(&registry, Arc::clone(&new)).unwrap();
        assert!(!old.tunnel.is_open());
        assert_eq!(registry.upstreams().len(), 2);
        assert_eq!(insert(&registry, upstream(&registry, "nas1", 1)), Err(Refusal::Stale));
        assert!(registry.remove(&old).is_none());
        assert_eq!(route(&registry, "nas1"), Ok(new.id));
        // Another process of the same box, whatever its count.
        let other = of_box(&registry, 1, 3, 1);
        insert(&registry, Arc::clone(&other)).unwrap();
        assert!(!new.tunnel.is_open());
        // Nameless agents have no order but that of their coming.
        let nameless = upstream(&registry, "nas1", 0);
        insert(&registry, Arc::clone(&nameless)).unwrap();
        assert_eq!(route(&registry, "nas1"), Ok(nameless.id));
        for gone in [&nameless, &new, &other] {
            registry.remove(gone);
        }
        assert_eq!(registry.upstreams().len(), 0);
    }

    #[test]
    fn an_old_connection_comes_too_late_also_when_the_newer_one_has_gone() {
        let registry = Registry::new();
        set_paired(&registry, &[("nas1", Access::Open)]);
        let new = upstream(&registry, "nas1", 5);
        insert(&registry, Arc::clone(&new)).unwrap();
        registry.remove(&new);
        assert_eq!(insert(&registry, upstream(&registry, "nas1", 4)), Err(Refusal::Stale));
        insert(&registry, upstream(&registry, "nas1", 6)).unwrap();
    }

    #[test]
    fn two_boxes_with_one_pairing_are_stopped_after_three_displacements() {
        let registry = Registry::new();
        insert(&registry, of_box(&registry, 1, 0, 1)).unwrap();
        for run in 1..=3 {
            assert_eq!(insert(&registry, of_box(&registry, 1, run, 1)), Ok(Seat::Holder));
        }
        let fourth = of_box(&registry, 1, 4, 1);
        assert_eq!(insert(&registry, Arc::clone(&fourth)), Err(Refusal::Contested));
        // Its own next connection displaces no other process.
        insert(&registry, of_box(&registry, 1, 3, 2)).unwrap();
        let soon = Rules { window: Duration::ZERO, ..RULES };
        assert_eq!(registry.enter(fourth, None, soon), Ok(Seat::Holder));
        // Who said goodbye is not displaced.
        for run in 5..15 {
            registry.upstreams().iter().for_each(|upstream| upstream.tunnel.drain());
            insert(&registry, of_box(&registry, 1, run, 1)).unwrap();
        }
        // Those that finish are bounded.
        assert_eq!(registry.upstreams().len(), 9);
    }

    #[test]
    fn another_box_has_to_wait_for_the_end_of_the_one_that_is_alive() {
        let registry = Registry::new();
        let (held, other) = (of_box(&registry, 1, 1, 9), of_box(&registry, 2, 2, 1));
        insert(&registry, Arc::clone(&held)).unwrap();
        let judged = registry.judge("nas1", other.run.as_ref(), RULES);
        assert!(matches!(judged, Verdict::Contest(holder) if holder.id == held.id));
        assert_eq!(insert(&registry, Arc::clone(&other)), Err(Refusal::Held));
        assert_eq!(registry.enter(Arc::clone(&other), Some(other.id), RULES), Err(Refusal::Held));
        assert_eq!(registry.enter(Arc::clone(&other), Some(held.id), RULES), Ok(Seat::Holder));
        assert!(!held.tunnel.is_open());
        // One that drains holds nothing.
        other.tunnel.drain();
        assert_eq!(insert(&registry, of_box(&registry, 1, 1, 10)), Ok(Seat::Holder));
    }

    #[test]
    fn one_box_may_stand_by_and_follows_when_the_first_goes() {
        let registry = Registry::new();
        let rules = Rules { standby: true, ..RULES };
        let enter = |upstream| registry.enter(upstream, None, rules);
        let (held, second) = (of_box(&registry, 1, 1, 1), of_box(&registry, 2, 2, 1));
        assert_eq!(enter(Arc::clone(&held)), Ok(Seat::Holder));
        assert_eq!(enter(Arc::clone(&second)), Ok(Seat::Standby));
        assert_eq!(enter(of_box(&registry, 3, 3, 1)), Err(Refusal::Held));
        assert_eq!(route(&registry, "nas1"), Ok(held.id));
        // Its own next connection takes its seat.
        let again = of_box(&registry, 2, 2, 2);
        assert_eq!(enter(Arc::clone(&again)), Ok(Seat::Standby));
        assert!(!second.tunnel.is_open());
        // As soon as the first says goodbye, and for good when it is gone.
        held.tunnel.drain();
        assert_eq!(route(&registry, "nas1"), Ok(again.id));
        let follows = registry.remove(&held).unwrap();
        assert_eq!((follows.id, follows.is_standby.load(Relaxed)), (again.id, false));
        assert_eq!(route(&registry, "nas1"), Ok(again.id));
        assert_eq!(enter(of_box(&registry, 1, 1, 2)), Ok(Seat::Standby));
    }

    #[test]
    fn box_that_stands_by_and_goes_itself_can_still_be_cut() {
        let registry = Registry::new();
        let rules = Rules { standby: true, ..RULES };
        let (held, second) = (of_box(&registry, 1, 1, 1), of_box(&registry, 2, 2, 1));
        registry.enter(Arc::clone(&held), None, rules).unwrap();
        registry.enter(Arc::clone(&second), None, rules).unwrap();
        second.tunnel.drain();
        assert!(registry.remove(&held).is_none());
        assert_eq!(registry.upstreams().len(), 1);
        assert_eq!(registry.leaving("nas1")[0].id, second.id);
        registry.remove(&second);
        assert_eq!(registry.upstreams().len(), 0);
    }
}
