//! The protocol of Redis (RESP 2 and 3) as far as the tests need it: a client that sends commands, and a parser that
//! finds where a value ends.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::DEADLINE;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    Text(String),
    Number(i64),
    Nil,
    /// Arrays, sets, maps (names and values in turn) and pushes.
    List(Vec<Reply>),
    Error(String),
}

impl Reply {
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Text(text) => text,
            other => panic!("expected a text: {other:?}"),
        }
    }

    pub(crate) fn number(&self) -> i64 {
        match self {
            Self::Number(number) => *number,
            other => panic!("expected a number: {other:?}"),
        }
    }

    pub(crate) fn texts(&self) -> Vec<String> {
        match self {
            Self::List(list) => list.iter().map(|item| item.text().to_owned()).collect(),
            other => panic!("expected a list: {other:?}"),
        }
    }

    /// Whether this delivers a published message to a subscriber.
    pub(crate) fn is_event(&self) -> bool {
        let Self::List(list) = self else { return false };
        let Some(Self::Text(kind)) = list.first() else { return false };
        matches!(kind.as_str(), "message" | "smessage" | "pmessage")
    }
}

/// The first value and its length; `None` if it is incomplete.
pub(crate) fn parse(bytes: &[u8]) -> Option<(Reply, usize)> {
    let end = bytes.windows(2).position(|window| window == b"\r\n")?;
    let line = std::str::from_utf8(&bytes[1..end]).expect("a line of RESP is text").to_owned();
    let mut used = end + 2;
    let reply = match (bytes[0], line.parse::<i64>()) {
        (b'+', _) => Reply::Text(line),
        (b'-', _) => Reply::Error(line),
        (b':', Ok(number)) => Reply::Number(number),
        (b'_', _) | (b'$' | b'*', Ok(-1)) => Reply::Nil,
        (b'#' | b',' | b'(', _) => Reply::Text(line),
        (b'$' | b'=' | b'!', Ok(length)) => {
            let length = usize::try_from(length).expect("a length");
            let text = bytes.get(used..used + length + 2)?;
            used += text.len();
            Reply::Text(String::from_utf8_lossy(&text[..length]).into_owned())
        }
        (kind @ (b'*' | b'>' | b'~' | b'%'), Ok(count)) => {
            let count = if kind == b'%' { count * 2 } else { count };
            let mut list = Vec::new();
            for _ in 0..count {
                let (item, length) = parse(&bytes[used..])?;
                list.push(item);
                used += length;
            }
            Reply::List(list)
        }
        (kind, _) => panic!("{:?} does not begin a RESP value", char::from(kind)),
    };
    Some((reply, used))
}

pub(crate) fn encode(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend(format!("${}\r\n{word}\r\n", word.len()).into_bytes());
    }
    bytes
}

/// Sends commands on a connection of their own and returns the reply to the last one.
pub(crate) async fn execute(address: SocketAddr, commands: &[&[&str]]) -> std::io::Result<Reply> {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        let mut buffer = Vec::new();
        let mut last = Reply::Nil;
        for command in commands {
            stream.write_all(&encode(command)).await?;
            last = loop {
                if let Some((reply, used)) = parse(&buffer) {
                    buffer.drain(..used);
                    break reply;
                }
                if stream.read_buf(&mut buffer).await? == 0 {
                    return Err(std::io::ErrorKind::UnexpectedEof.into());
                }
            };
        }
        Ok(last)
    };
    timeout(DEADLINE, exchange).await.unwrap_or_else(|_| panic!("no answer to {commands:?}"))
}
