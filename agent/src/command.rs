//! What is asked of an agent from outside: `status`, `doctor` and `rotate`.
//!
//! It owns which agents are asked and what stands in for one that does not run. What the answers
//! say is [`crate::status`]'s and [`crate::doctor`]'s.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use async_io::block_on;

use crate::{
    config::{self, File},
    control::{self, Answer},
    dial::Timings,
    doctor::{self, Finding},
    rotate::{self, RotateError},
};

/// `status`: what the running agents say, or that none does. Code 1 if anything is wrong.
///
/// # Errors
/// One line: nobody answered.
pub fn status(json: bool, config: Option<&Path>) -> Result<Answer, String> {
    let (answers, silent) = ask_all(if json { "json" } else { "status" }, config, STATUS_MAX);
    if answers.is_empty() {
        let why = silent.into_iter().next();
        let nobody = || format!("no agent runs here that {} could ask", doctor::user());
        return Err(why.unwrap_or_else(nobody));
    }
    Ok(joined(answers))
}

/// `doctor`: findings of the running agents; where none runs, of the configuration. Code 1 if
/// anything is wrong.
#[must_use]
pub fn doctor(config: Option<&Path>) -> Answer {
    let (answers, silent) = ask_all("doctor", config, DOCTOR_MAX);
    let is_asked = !answers.is_empty();
    let mut findings: Vec<_> = silent.into_iter().map(Finding::Note).collect();
    let path = config.map(Path::to_owned).or_else(config::default_path);
    match (path, is_asked) {
        (None, true) => {}
        (None, false) => findings.push(Finding::Wrong(
            "no agent runs, and there is no configuration".to_owned(),
            "spdy-proxy pair NAME on the server, spdy-agent join here; or give --config FILE"
                .to_owned(),
        )),
        (Some(path), _) => match File::load(Some(&path)) {
            Err(error) => {
                let advice = "correct it; a running agent goes on with what it has".to_owned();
                findings.push(Finding::Wrong(error.to_string(), advice));
            }
            Ok(file) => {
                findings.push(Finding::Good(format!("{} can be read", path.display())));
                findings.extend(doctor::of_token_files(&file));
                if !is_asked {
                    let what = format!("no agent runs here that {} could ask", doctor::user());
                    findings.push(Finding::Note(what));
                    findings.extend(block_on(doctor::of_file(&file, Timings::default())));
                }
            }
        },
    }
    let lines: String = findings.iter().map(|finding| format!("{finding}\n")).collect();
    let own = Answer { code: findings.iter().any(Finding::is_wrong).into(), text: lines };
    joined(std::iter::once(own).chain(answers))
}

/// `rotate`: new tokens, which running agents are told of.
///
/// # Errors
/// [`RotateError`]: no token was replaced, or not all.
pub fn rotate(config: Option<&Path>) -> Result<Answer, RotateError> {
    let rotated = block_on(rotate::rotate(config, Timings::default()))?;
    let mut text: String =
        rotated.iter().map(|address| format!("new token for {address}\n")).collect();
    // Without a name all are told: one that runs with another file may have included this one.
    let (told, _) = ask_all("reload", config, STATUS_MAX);
    if told.is_empty() {
        text.push_str("no running agent was told: one that runs must be sent SIGHUP\n");
    }
    Ok(joined(std::iter::once(Answer { code: 0, text }).chain(told)))
}

/// Asks the agent of a configuration, or all of them; and in a line each, who could not be asked.
fn ask_all(
    question: &str,
    config: Option<&Path>,
    patience: Duration,
) -> (Vec<Answer>, Vec<String>) {
    let (mut answers, mut silent) = (Vec::new(), Vec::new());
    let default = config.is_none().then(config::default_path).flatten();
    let paths: Vec<PathBuf> = control::find(config.or(default.as_deref()), config.is_some());
    for path in paths {
        match control::ask(&path, question, patience) {
            Ok(answer) => answers.push(answer),
            // What a killed agent left behind.
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
                ) => {}
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => silent.push(format!(
                "{} may not ask the agent behind {}: ask as root, or as its user",
                doctor::user(),
                path.display()
            )),
            Err(error) => {
                silent.push(format!("the agent behind {} does not answer: {error}", path.display()))
            }
        }
    }
    (answers, silent)
}

fn joined(answers: impl IntoIterator<Item = Answer>) -> Answer {
    let mut all = Answer { code: 0, text: String::new() };
    for answer in answers {
        all.code = all.code.max(answer.code);
        all.text.push_str(&answer.text);
    }
    all
}

/// Longest wait for an agent that has nothing to find out.
const STATUS_MAX: Duration = Duration::from_secs(10);
/// Longest wait for one that dials.
const DOCTOR_MAX: Duration = Duration::from_secs(120);
