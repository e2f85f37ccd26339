//! What travels, and how it is shown.

use socketserver::prelude::*;

/// The longest message that a member of a room may send, in bytes.
pub(crate) const LONGEST_MESSAGE: usize = 4096;

const LONGEST_NAME: usize = 32;

/// What a room answers to a name that it accepts; anything else is why it does not.
pub(crate) const WELCOME: &str = "welcome";

/// What members send: first their name, then what they say.
pub(crate) fn from_members() -> LengthDelimitedCodec {
    LengthDelimitedCodec::u32_be().max_frame_length(LONGEST_MESSAGE)
}

/// What members are sent: [`WELCOME`], then what is said, each with its speaker's name. Room for both: three
/// bytes stand for one that is no UTF-8.
pub(crate) fn to_members() -> LengthDelimitedCodec {
    LengthDelimitedCodec::u32_be().max_frame_length(4 * LONGEST_MESSAGE)
}

/// The name that a member gives itself, as the others see it; or why it cannot be one: what they hear begins with the
/// name and `:`, and notices with `*`.
pub(crate) fn member_name(message: &[u8]) -> Result<String, String> {
    let name = printable(message).trim_start().to_owned();
    if (1..=LONGEST_NAME).contains(&name.chars().count()) && !name.contains(['*', ':']) {
        return Ok(name);
    }
    Err(format!(
        "a name has 1 to {LONGEST_NAME} characters other than `*` and `:`"
    ))
}

/// A message as text for a terminal: in one line, and without what would control the terminal.
pub(crate) fn printable(message: &[u8]) -> String {
    let mut text = String::new();
    for each in String::from_utf8_lossy(message).trim_end().chars() {
        if each.is_control() || turns_text(each) {
            text.extend(each.escape_default());
        } else {
            text.push(each);
        }
    }
    text
}

/// Whether it turns the direction of the text behind it, and so the end of the line.
fn turns_text(character: char) -> bool {
    matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
