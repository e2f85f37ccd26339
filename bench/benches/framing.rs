//! Decoding messages from memory: ours beside tokio-util's codec, bstr, the standard library and loops by
//! hand.
//!
//! All decode the same stream, one after the other, round after round. What is counted is the thread's
//! processor time, so that other programs on the machine do not count; a ratio is the median of the ratios
//! within the rounds. That `next_ref` allocates nothing is counted in the library's tests (`framing_memory`):
//! an allocator that counts would slow the peers here.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use bstr::io::BufReadExt;
use bytes::BytesMut;
use futures_util::{FutureExt, StreamExt};
use nix::time::{ClockId, clock_gettime};
use socketserver::framing::{Decoder, Framed, LengthDelimitedCodec, LinesCodec};
use tokio_util::codec::{self, Decoder as _, FramedRead};

const ROUNDS: usize = 31;

/// How long one subject runs in a round, at least.
const TURN: Duration = Duration::from_millis(4);

/// The bytes of a stream: more than the first-level cache holds, and enough messages of every size.
const STREAM: u32 = 1 << 20;

/// Decodes the whole stream and returns how many bytes the messages had.
type Subject<'a> = (&'a str, &'a dyn Fn() -> usize);

fn main() {
    println!("nanoseconds a message (median of {ROUNDS} rounds), and ours as a part of it: below 1 ours is faster\n");
    for size in [16, 1024, 65_536, 262_144, 4_194_304] {
        lengths(size);
    }
    for size in [16, 80, 1024] {
        lines(size);
    }
}

fn lengths(size: u32) {
    let message = [&size.to_be_bytes()[..], &vec![b'x'; size as usize]].concat();
    // Making the buffer is part of the stream: with few messages it would be most of it.
    let count = (STREAM / (size + 4)).max(64.min((STREAM << 5) / size));
    let wire = &message.repeat(count as usize)[..];
    compare(
        &format!("length-delimited, {size} bytes"),
        count,
        &[
            ("Framed::next_ref", &|| lend(wire, LengthDelimitedCodec::u32_be())),
            ("Framed::next", &|| own(wire, LengthDelimitedCodec::u32_be())),
            ("tokio-util FramedRead", &|| tokio_framed(wire)),
            ("tokio-util decode, all in memory", &|| tokio_decode(wire)),
            ("by hand, BufReader and read_exact", &|| by_hand(wire)),
            ("by hand, out of a buffer of its own", &|| by_hand_lending(wire)),
        ],
    );
}

fn lines(size: u32) {
    let line = [&vec![b'x'; size as usize][..], b"\n"].concat();
    let count = STREAM / (size + 1);
    let wire = &line.repeat(count as usize)[..];
    compare(
        &format!("lines, {size} bytes"),
        count,
        &[
            ("Framed::next_ref", &|| lend(wire, LinesCodec::new())),
            ("Framed::next", &|| own(wire, LinesCodec::new())),
            ("BufRead::read_line", &|| read_line(wire)),
            ("BufRead::read_until", &|| read_until(wire)),
            ("bstr for_byte_line (memchr)", &|| for_byte_line(wire)),
        ],
    );
}

/// Runs the subjects in turn and prints how the first does beside each.
fn compare(title: &str, messages: u32, subjects: &[Subject<'_>]) {
    let expected = subjects[0].1();
    let repetitions: Vec<u32> = subjects
        .iter()
        .map(|(name, run)| {
            assert_eq!(run(), expected, "{name} decodes the same");
            let fit = TURN.as_nanos() / processor_time(run).as_nanos().max(1);
            u32::try_from(fit).expect("a stream takes longer than a picosecond") + 1
        })
        .collect();
    let mut rounds = vec![Vec::new(); subjects.len()];
    for _ in 0..ROUNDS {
        for (index, (_, run)) in subjects.iter().enumerate() {
            let took = processor_time(|| {
                for _ in 0..repetitions[index] {
                    black_box(run());
                }
            });
            rounds[index].push(took.as_secs_f64() / f64::from(repetitions[index]));
        }
    }
    println!("{title}");
    for ((name, _), times) in subjects.iter().zip(&rounds) {
        let message = median(times.iter().copied()) / f64::from(messages) * 1e9;
        let ratio = median(rounds[0].iter().zip(times).map(|(ours, its)| ours / its));
        println!("    {name:36} {message:9.1} ns {ratio:7.2}");
    }
}

fn processor_time<T>(work: impl FnOnce() -> T) -> Duration {
    let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).expect("every thread has this clock"));
    let began = now();
    black_box(work());
    now().saturating_sub(began)
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

// ----- Ours --------------------------------------------------------------------------------------

fn lend(stream: impl Read, codec: impl Decoder) -> usize {
    let mut framed = Framed::new(stream, codec);
    let mut total = 0;
    while let Some(message) = framed.next_ref().expect("memory does not fail") {
        total += black_box(message).len();
    }
    total
}

fn own(stream: impl Read, codec: impl Decoder) -> usize {
    let messages = Framed::new(stream, codec);
    messages
        .map(|message| black_box(message.expect("memory does not fail")).len())
        .sum()
}

// ----- Theirs ------------------------------------------------------------------------------------

fn tokio_framed(stream: &[u8]) -> usize {
    let mut framed = FramedRead::new(stream, codec::LengthDelimitedCodec::new());
    let mut total = 0;
    while let Some(message) = framed.next().now_or_never().expect("memory is always ready") {
        total += black_box(message.expect("memory does not fail")).len();
    }
    total
}

fn tokio_decode(stream: &[u8]) -> usize {
    let mut codec = codec::LengthDelimitedCodec::new();
    let mut bytes = BytesMut::from(stream);
    let mut total = 0;
    while let Some(message) = codec.decode(&mut bytes).expect("the stream is right") {
        total += black_box(message).len();
    }
    total
}

/// As one writes it: header, body, each into memory that is used again.
fn by_hand(stream: impl Read) -> usize {
    let mut reader = BufReader::new(stream);
    let (mut header, mut body, mut total) = ([0; 4], Vec::new(), 0);
    while reader.read_exact(&mut header).is_ok() {
        body.resize(u32::from_be_bytes(header) as usize, 0);
        reader.read_exact(&mut body).expect("the stream ends behind a message");
        total += black_box(&body[..]).len();
    }
    total
}

/// The least that there is to do.
fn by_hand_lending(mut stream: impl Read) -> usize {
    let mut buffer = vec![0; 8192];
    let (mut start, mut end, mut total) = (0, 0, 0);
    loop {
        let mut needed = 4;
        if let Some((header, rest)) = buffer[start..end].split_first_chunk() {
            let length = u32::from_be_bytes(*header) as usize;
            needed += length;
            if let Some(message) = rest.get(..length) {
                total += black_box(message).len();
                start += needed;
                continue;
            }
        }
        buffer.copy_within(start..end, 0);
        end -= start;
        start = 0;
        if buffer.len() < needed {
            buffer.resize(needed, 0);
        }
        match stream.read(&mut buffer[end..]).expect("memory does not fail") {
            0 => return total,
            count => end += count,
        }
    }
}

fn read_line(stream: impl Read) -> usize {
    let mut reader = BufReader::new(stream);
    let (mut line, mut total) = (String::new(), 0);
    while reader.read_line(&mut line).expect("the stream is UTF-8") > 0 {
        total += black_box(line.trim_end_matches('\n')).len();
        line.clear();
    }
    total
}

fn read_until(stream: impl Read) -> usize {
    let mut reader = BufReader::new(stream);
    let (mut line, mut total) = (Vec::new(), 0);
    while reader.read_until(b'\n', &mut line).expect("memory does not fail") > 0 {
        total += black_box(&line[..line.len() - 1]).len();
        line.clear();
    }
    total
}

fn for_byte_line(stream: impl Read) -> usize {
    let mut total = 0;
    let counted = BufReader::new(stream).for_byte_line(|line| {
        total += black_box(line).len();
        Ok(true)
    });
    counted.expect("memory does not fail");
    total
}
