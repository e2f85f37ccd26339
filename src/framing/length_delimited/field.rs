//! The number before a message: its width, byte order and sign.

use crate::framing::DecodeError;

/// The longest varint of 64 bits, seven in each byte.
const LONGEST_VARINT: usize = 10;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Endian {
    Big,
    Little,
}

impl Endian {
    pub(super) const NATIVE: Endian = if cfg!(target_endian = "big") {
        Endian::Big
    } else {
        Endian::Little
    };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LengthField {
    /// 1 to 8 bytes.
    Fixed { width: usize, endian: Endian, signed: bool },
    /// Base 128, least significant group first, the high bit set in all bytes but the last: protobuf's.
    Varint,
}

impl LengthField {
    /// The number at the beginning of `bytes` and how many bytes it has; `None`: not all of them are there.
    #[inline]
    pub(super) fn read(self, bytes: &[u8]) -> Result<Option<(u64, usize)>, DecodeError> {
        let LengthField::Fixed { width, endian, signed } = self else {
            return read_varint(bytes);
        };
        let Some(field) = bytes.get(..width) else {
            return Ok(None);
        };
        let value = read_fixed(field, endian);
        if signed {
            let unused = 64 - 8 * width;
            let length = (value << unused).cast_signed() >> unused;
            if length < 0 {
                return Err(DecodeError::NegativeLength { length });
            }
        }
        Ok(Some((value, width)))
    }

    /// Appends a number that is at most [`largest`](Self::largest).
    pub(super) fn write(self, value: u64, out: &mut Vec<u8>) {
        match self {
            LengthField::Fixed { width, endian, .. } => match endian {
                Endian::Big => out.extend_from_slice(&value.to_be_bytes()[8 - width..]),
                Endian::Little => out.extend_from_slice(&value.to_le_bytes()[..width]),
            },
            LengthField::Varint => write_varint(value, out),
        }
    }

    /// The largest number that it holds.
    pub(super) fn largest(self) -> u64 {
        match self {
            LengthField::Fixed { width, signed, .. } => u64::MAX >> (64 - 8 * width + usize::from(signed)),
            LengthField::Varint => u64::MAX,
        }
    }

    /// How many bytes it has at least, when the `arrived` that are there are not all of it.
    pub(super) fn least_width(self, arrived: usize) -> usize {
        match self {
            LengthField::Fixed { width, .. } => width,
            LengthField::Varint => arrived + 1,
        }
    }
}

/// The usual widths are one load each.
#[inline]
fn read_fixed(field: &[u8], endian: Endian) -> u64 {
    match (field, endian) {
        (&[a, b, c, d], Endian::Big) => u32::from_be_bytes([a, b, c, d]).into(),
        (&[a, b, c, d], Endian::Little) => u32::from_le_bytes([a, b, c, d]).into(),
        (&[a, b], Endian::Big) => u16::from_be_bytes([a, b]).into(),
        (&[a, b], Endian::Little) => u16::from_le_bytes([a, b]).into(),
        (_, Endian::Big) => field.iter().fold(0, |value, &byte| value << 8 | u64::from(byte)),
        (_, Endian::Little) => field.iter().rev().fold(0, |value, &byte| value << 8 | u64::from(byte)),
    }
}

fn read_varint(bytes: &[u8]) -> Result<Option<(u64, usize)>, DecodeError> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(LONGEST_VARINT).enumerate() {
        let group = u64::from(byte & 0x7f);
        // The tenth byte has one bit of the 64.
        if index == LONGEST_VARINT - 1 && group > 1 {
            return Err(DecodeError::OverlongVarint);
        }
        value |= group << (7 * index);
        if byte & 0x80 == 0 {
            // A last byte of zero adds nothing.
            return if byte == 0 && index > 0 {
                Err(DecodeError::OverlongVarint)
            } else {
                Ok(Some((value, index + 1)))
            };
        }
    }
    if bytes.len() < LONGEST_VARINT {
        Ok(None)
    } else {
        Err(DecodeError::OverlongVarint)
    }
}

fn write_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}
