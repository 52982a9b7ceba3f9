//! Answers of the shell in the machine (`tests/qemu/guest/usr/local/sbin/spdy-shell`).

use data_encoding::BASE64;

/// What came of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Exit code.
    pub status: i32,
    /// What it printed on both pipes.
    pub output: String,
}

impl Answer {
    /// Reads `STATUS BASE64`.
    pub fn parse(line: &str) -> Option<Self> {
        let (status, output) = line.split_once(' ')?;
        let output = BASE64.decode(output.as_bytes()).ok()?;
        let output = String::from_utf8_lossy(&output).into_owned();
        Some(Self { status: status.parse().ok()?, output })
    }
}

#[cfg(test)]
mod tests {
    use super::Answer;

    #[test]
    fn answers_are_read() {
        let answer = |status, output: &str| Some(Answer { status, output: output.to_owned() });
        assert_eq!(Answer::parse("0 "), answer(0, ""));
        assert_eq!(Answer::parse("3 b25lCnR3bwo="), answer(3, "one\ntwo\n"));
        assert_eq!(Answer::parse("ready running"), None);
    }
}
