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
    Fixed(Fixed),
    /// Base 128, least significant group first, the high bit set in all bytes but the last: protobuf's.
    Varint,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fixed {
    width: usize,
    endian: Endian,
    /// The highest bit if that is a sign, else none.
    sign: u64,
}

impl LengthField {
    pub(super) fn fixed(width: usize, endian: Endian, signed: bool) -> Self {
        let sign = if signed { 1 << (8 * width - 1) } else { 0 };
        LengthField::Fixed(Fixed { width, endian, sign })
    }

    /// The number at the beginning of `bytes` and how many bytes it has; `None`: not all of them are there.
    #[inline]
    pub(super) fn read(self, bytes: &[u8]) -> Result<Option<(u64, usize)>, DecodeError> {
        match self {
            LengthField::Fixed(field) => field.read(bytes),
            LengthField::Varint => read_varint(bytes),
        }
    }

    /// Appends a number that is at most [`largest`](Self::largest).
    pub(super) fn write(self, value: u64, out: &mut Vec<u8>) {
        match self {
            LengthField::Fixed(Fixed { width, endian, .. }) => match endian {
                Endian::Big => out.extend_from_slice(&value.to_be_bytes()[8 - width..]),
                Endian::Little => out.extend_from_slice(&value.to_le_bytes()[..width]),
            },
            LengthField::Varint => write_varint(value, out),
        }
    }

    /// The largest number that it holds.
    pub(super) fn largest(self) -> u64 {
        match self {
            LengthField::Fixed(field) => u64::MAX >> field.unused_bits() >> u32::from(field.sign != 0),
            LengthField::Varint => u64::MAX,
        }
    }

    /// How many bytes it has at least, when the `arrived` that are there are not all of it.
    pub(super) fn least_width(self, arrived: usize) -> usize {
        match self {
            LengthField::Fixed(field) => field.width,
            LengthField::Varint => arrived + 1,
        }
    }
}

impl Fixed {
    #[inline]
    fn read(self, bytes: &[u8]) -> Result<Option<(u64, usize)>, DecodeError> {
        let value = if let Some(eight) = bytes.first_chunk() {
            self.value(*eight)
        } else if bytes.len() < self.width {
            return Ok(None);
        } else {
            let mut eight = [0; 8];
            eight[..bytes.len()].copy_from_slice(bytes);
            self.value(eight)
        };
        if value & self.sign == 0 {
            Ok(Some((value, self.width)))
        } else {
            let unused = self.unused_bits();
            let length = (value << unused).cast_signed() >> unused;
            Err(DecodeError::NegativeLength { length })
        }
    }

    /// Of the eight bytes from the field on.
    #[inline]
    fn value(self, eight: [u8; 8]) -> u64 {
        let unused = self.unused_bits();
        match self.endian {
            Endian::Big => u64::from_be_bytes(eight) >> unused,
            Endian::Little => u64::from_le_bytes(eight) << unused >> unused,
        }
    }

    #[inline]
    fn unused_bits(self) -> usize {
        64 - 8 * self.width
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
