//! Rules of this code base that no lint checks: the dependency order that ARCHITECTURE.md states, import cycles, which
//! modules know a protocol or a library, lengths, and the text of documents. Quick: it reads files and runs nothing.

mod exceptions;
mod guarantees;
mod imports;
mod layers;
mod lengths;
mod libraries;
mod logs;
mod protocols;
mod scanner;
mod sources;
mod text;
