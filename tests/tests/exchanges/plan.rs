//! What is asked and answered, from a seed.
//!
//! It owns the choice of requests, answers, faults and disturbances. The same seed gives the same
//! plan; how far a run gets in it depends on the machine.

use serde_json::{Value, json};

/// One request and what the service does with it.
#[derive(Clone, Debug)]
pub struct Exchange {
    /// Names it in a header of the request and of the answer; bodies are made of it.
    pub id: String,
    pub method: &'static str,
    pub framing: Framing,
    /// Length of the request's body.
    pub len: usize,
    /// Whether the client sends `Expect: 100-continue` (curl only).
    pub expects: bool,
    /// Whether the client pauses between the pieces of its body, where it can.
    pub is_slow: bool,
    pub answer: Answer,
}

/// How a body says where it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// No body.
    None,
    Length,
    Chunked,
    /// With the connection: answers only.
    Closed,
}

/// What the service answers.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub framing: Framing,
    pub len: usize,
    /// Whether 103 comes first.
    pub has_interim: bool,
    pub timing: Timing,
    /// Before the answer's first byte.
    pub pause_ms: u64,
    /// Pauses between the pieces of the body.
    pub is_slow: bool,
    pub ending: Ending,
    /// Whether the proxy stands still for 50 ms around the answer, so that all of it comes at once.
    pub stops_proxy: bool,
}

/// When the service answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timing {
    /// When it has the whole request.
    AtTheEnd,
    /// Before it reads the body, which it reads then.
    EarlyThenReads,
    /// Before it reads the body, which it does not read.
    EarlyThenCloses,
}

/// How an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Whole,
    /// Nothing comes, the connection is closed.
    Nothing(Break),
    /// Nothing comes at all, until the agent gives up.
    Silent,
    InHead(Break),
    /// Only the empty line behind the head is missing.
    AtHeadEnd(Break),
    BehindHead(Break),
    InBody(Break),
    /// Nothing more comes for a second, then the connection breaks.
    Stalls,
}

/// How a connection is broken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Break {
    /// RST instead of FIN.
    pub resets: bool,
    /// Whether what was sent before has time to be read.
    pub waits: bool,
}

/// What happens to the programs and to the line between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Disturbance {
    AgentTerminated,
    AgentKilled,
    AgentReloaded,
    ProxyReloaded,
    ProxyHandedOver,
    ProxyKilled,
    LinkCut,
    /// All places for upgrades are taken.
    UpgradesFull,
}

/// Numbers from a seed (SplitMix64).
#[derive(Clone, Debug)]
pub struct Choices(u64);

impl Choices {
    /// Independent numbers for each path of `parts`.
    pub fn new(seed: u64, parts: &[u64]) -> Self {
        let mut choices = Self(seed);
        for part in parts {
            choices.0 = choices.next() ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        choices
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    pub fn is_one_in(&mut self, count: u64) -> bool {
        self.below(count) == 0
    }

    pub fn of<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::try_from(self.below(from.len() as u64)).unwrap()]
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    fn len(&mut self) -> usize {
        let most = self.of(&[1, 20, 3_000, 20_000, 70_000, 300 << 10]);
        usize::try_from(self.below(most + 1)).unwrap()
    }
}

impl Exchange {
    /// The `number`th of a client's.
    pub fn draw(seed: u64, client: u64, number: u64) -> Self {
        let mut choices = Choices::new(seed, &[client, number]);
        let method = choices.of(&["GET", "POST", "POST", "POST", "PUT", "DELETE", "PATCH"]);
        let framing = match method {
            "GET" | "DELETE" => Framing::None,
            _ => choices.of(&[Framing::None, Framing::Length, Framing::Length, Framing::Chunked]),
        };
        let len = if framing == Framing::None { 0 } else { choices.len() };
        Self {
            id: format!("x{client}-{number}"),
            method,
            framing,
            len,
            expects: choices.is_one_in(3),
            is_slow: choices.is_one_in(8),
            answer: Answer::draw(&mut choices),
        }
    }

    /// What a client has to know of it.
    pub fn to_json(&self) -> Value {
        json!({
            "id": self.id, "method": self.method, "length": self.len, "slow": self.is_slow,
            "framing": match self.framing {
                Framing::None | Framing::Closed => "none",
                Framing::Length => "length",
                Framing::Chunked => "chunked",
            },
        })
    }
}

impl Answer {
    fn draw(choices: &mut Choices) -> Self {
        let status = choices.of(&[200, 200, 200, 200, 201, 204, 400, 404, 409, 413, 500, 503]);
        let framing = match status {
            204 => Framing::None,
            _ => choices.of(&[Framing::Length, Framing::Length, Framing::Chunked, Framing::Closed]),
        };
        let len = if framing == Framing::None { 0 } else { 1 + choices.len() };
        let timing = choices.of(&[
            Timing::AtTheEnd,
            Timing::AtTheEnd,
            Timing::AtTheEnd,
            Timing::AtTheEnd,
            Timing::AtTheEnd,
            Timing::AtTheEnd,
            Timing::EarlyThenReads,
            Timing::EarlyThenCloses,
        ]);
        let mut how = Break { resets: choices.is_one_in(2), waits: choices.is_one_in(2) };
        let ending = match choices.below(24) {
            0 => Ending::Nothing(how),
            1 if choices.is_one_in(4) => Ending::Silent,
            2 => Ending::InHead(how),
            3 => Ending::AtHeadEnd(how),
            4 if framing != Framing::None => {
                how.resets |= framing == Framing::Closed;
                Ending::BehindHead(how)
            }
            5..9 if framing != Framing::None => {
                how.resets |= framing == Framing::Closed;
                Ending::InBody(how)
            }
            9 if framing != Framing::None && choices.is_one_in(3) => Ending::Stalls,
            _ => Ending::Whole,
        };
        Self {
            status,
            framing,
            len,
            has_interim: choices.is_one_in(8),
            timing,
            pause_ms: choices.of(&[0, 0, 0, 0, 5, 20, 150]),
            is_slow: choices.is_one_in(10),
            ending,
            stops_proxy: choices.is_one_in(10),
        }
    }

    /// The head with its empty line.
    pub fn head(&self, id: &str) -> String {
        let mut head = format!("HTTP/1.1 {} Planned\r\nX-Exchange: {id}\r\n", self.status);
        match self.framing {
            Framing::Length => head += &format!("Content-Length: {}\r\n", self.len),
            Framing::Chunked => head += "Transfer-Encoding: chunked\r\n",
            Framing::None | Framing::Closed => {}
        }
        head + "Content-Type: text/plain\r\nCache-Control: no-store\r\n\r\n"
    }
}

impl Disturbance {
    pub fn draw(choices: &mut Choices) -> Self {
        choices.of(&[
            Self::AgentTerminated,
            Self::AgentTerminated,
            Self::AgentKilled,
            Self::AgentReloaded,
            Self::ProxyReloaded,
            Self::ProxyHandedOver,
            Self::ProxyKilled,
            Self::LinkCut,
            Self::UpgradesFull,
            Self::UpgradesFull,
        ])
    }
}

/// The body of a request or an answer: of another length or another exchange it is another one.
pub fn content(id: &str, len: usize) -> Vec<u8> {
    let unit = format!("{id}.").into_bytes();
    unit.iter().copied().cycle().take(len).collect()
}

#[test]
fn plans_are_those_of_their_seeds() {
    let draw =
        |seed| format!("{:?}", (0..50).map(|n| Exchange::draw(seed, 1, n)).collect::<Vec<_>>());
    assert_eq!(draw(7), draw(7));
    assert_ne!(draw(7), draw(8));
    assert_eq!(content("ab", 7), b"ab.ab.a");
}
