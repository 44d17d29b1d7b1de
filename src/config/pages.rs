//! Which of its own pages and scripts the server serves.

use clap::ValueEnum;

use super::IdentityMode;

/// The settings as typed.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Pages")]
pub struct PagesArgs {
    /// Pages and scripts to serve besides the API [default: all in open mode, otherwise client]
    #[arg(long, env = "ROLLCALL_PAGES", value_enum, value_name = "WHAT")]
    pub pages: Option<Pages>,
}

impl PagesArgs {
    /// What to serve. Pages are for trying the server out: in production an application has its own.
    pub(super) fn check(&self, identity: IdentityMode, is_closed: bool) -> Pages {
        self.pages.unwrap_or(if identity.is_open() && !is_closed { Pages::All } else { Pages::Client })
    }
}

/// Which of its own pages and scripts the server serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Pages {
    /// All pages, demo users, presence.js, embed.js and the reference of the HTTP API (/docs, /openapi.json).
    All,
    /// Only presence.js and embed.js with their types, for pages of other sites, and the reference of the HTTP API.
    Client,
    /// No pages and no scripts; the reference only on --internal-listen.
    Off,
}
