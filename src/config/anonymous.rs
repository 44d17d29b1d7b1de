//! What visitors without a credential may see.

use clap::ArgAction;

use super::variables::NO_CREDENTIAL_HEADING;
use super::{ConfigError, require};

/// The limit of rules.
const MAX_RULES: usize = 64;

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = NO_CREDENTIAL_HEADING)]
pub struct AnonymousArgs {
    /// Let visitors without a credential see the number of members (count:PATTERN), or members and messages
    /// (observe:PATTERN), of the rooms whose names match; * stands for any characters; can be repeated
    #[arg(long, env = "ROLLCALL_ANONYMOUS", value_delimiter = ',', action = ArgAction::Append, value_name = "RULE")]
    pub anonymous: Vec<String>,
}

/// Rooms that visitors without a credential may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnonymousRule {
    /// Whether they see members and messages; if not, they see numbers.
    pub observes: bool,
    /// The pattern of the names.
    pub rooms: String,
}

impl AnonymousArgs {
    /// Checks the settings.
    pub(super) fn check(self, has_identity: bool) -> Result<Vec<AnonymousRule>, ConfigError> {
        let rules: Vec<_> = self.anonymous.iter().map(|text| rule(text)).collect::<Result<_, _>>()?;
        require(rules.len() <= MAX_RULES, || {
            format!("--anonymous is given {} times; the limit is {MAX_RULES}", rules.len())
        })?;
        require(has_identity || rules.is_empty(), || {
            "--anonymous applies to visitors without a credential, and without --jwt-secret-file, --jwt-public-key or \
             --auth-url nobody needs one"
                .to_owned()
        })?;
        Ok(rules)
    }
}

fn rule(text: &str) -> Result<AnonymousRule, ConfigError> {
    let rule = text.split_once(':').and_then(|(action, rooms)| {
        let observes = match action {
            "observe" => true,
            "count" => false,
            _ => return None,
        };
        (!rooms.is_empty()).then(|| AnonymousRule { observes, rooms: rooms.to_owned() })
    });
    let message = || "--anonymous must be count:PATTERN or observe:PATTERN, such as count:page-*".to_owned();
    rule.ok_or_else(|| ConfigError::Invalid(message()))
}
