//! What one worker of a prefork server and its master tell each other, in memory that they share.

use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::LimitKind;
use crate::stats::{Counts, End, Way};
use crate::sys::Words;

/// The words of a slot, by their place in it.
#[derive(Clone, Copy)]
enum Word {
    /// Requests accepted.
    Accepted,
    /// Requests that the limits have let in.
    Started,
    /// Requests that `verify_request` refused.
    Refused,
    /// Acceptors that wait for a request at this moment.
    Waiting,
    /// Acceptors that are about to accept, or do.
    Accepting,
    /// Acceptors that pause, because accepting does not work.
    Pausing,
    /// Changes whenever the worker gets on.
    Progress,
    /// How far it has come: a [`Stage`].
    Stage,
    /// What it was told: an [`Order`].
    Order,
    /// It has accepted whatever it was woken for, and will not be woken any more.
    NothingLost,
    /// The length of the reason why it ended, in bytes.
    ReasonLength,
    /// The length of the client's address, in bytes.
    ClientLength,
}

/// Then come requests that have ended: a word for served and failed ones, in each [`Way`].
const ENDS: usize = Word::ClientLength as usize + 1;
const WAYS: usize = 3;
/// Then those that limits rejected, a word for each limit.
const REJECTED: usize = ENDS + 2 * WAYS;
/// Then comes the reason.
const REASON: usize = REJECTED + LimitKind::ALL.len();
const REASON_WORDS: usize = 32;
/// Then the address of the client that is served, as text: if it has one, and there is one at a time.
const CLIENT: usize = REASON + REASON_WORDS;
const CLIENT_WORDS: usize = 8;
const WORDS: usize = CLIENT + CLIENT_WORDS;

/// How far a worker has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// It has never waited for a request, let alone accepted one.
    Starting,
    /// It accepts.
    Ready,
    /// It accepts no more, and ends with its last request.
    Left,
    /// Its listening socket, and so everybody's, is broken.
    Broken,
}

/// What the master wants of a worker that it sends SIGTERM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    None,
    /// Others go on: accept no more.
    Leave,
    /// The server ends: accept what the kernel has queued.
    Drain,
    /// The time is over.
    Force,
}

/// The requests of a worker that have not ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Present {
    pub(crate) running: u64,
    /// Those that wait for their address's turn, or were accepted this moment.
    pub(crate) waiting: u64,
}

/// What one worker tells its master and is told, in memory of both: the master reads it also when the
/// worker was killed, at whatever moment.
///
/// Each end of a request changes one word, once. So what was accepted is served, failed, refused, rejected or
/// in progress, never two of these.
#[derive(Debug)]
pub(crate) struct Slot {
    words: Words<WORDS>,
}

impl Slot {
    /// # Errors
    ///
    /// There is no memory.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Slot {
            words: Words::shared()?,
        })
    }

    fn word(&self, word: Word) -> &AtomicU64 {
        &self.words[word as usize]
    }

    fn get(&self, word: Word) -> u64 {
        self.word(word).load(Ordering::SeqCst)
    }

    fn set(&self, word: Word, value: u64) {
        self.word(word).store(value, Ordering::SeqCst);
    }

    fn add(&self, word: Word) -> u64 {
        self.word(word).fetch_add(1, Ordering::SeqCst)
    }

    // ----- For the worker ------------------------------------------------------------------------

    /// A request has come. Returns how many have.
    pub(crate) fn accepted(&self) -> u64 {
        let accepted = self.add(Word::Accepted) + 1;
        self.progress();
        accepted
    }

    /// How many requests have come.
    pub(crate) fn has_accepted(&self) -> u64 {
        self.get(Word::Accepted)
    }

    /// The limits have let a request in.
    pub(crate) fn started(&self) {
        self.add(Word::Started);
    }

    pub(crate) fn ended(&self, end: End, way: Way) {
        self.end(end, way).fetch_add(1, Ordering::SeqCst);
        self.set(Word::ClientLength, 0);
        self.progress();
    }

    fn end(&self, end: End, way: Way) -> &AtomicU64 {
        let row = match end {
            End::Served => 0,
            End::Failed => 1,
            End::Refused => return self.word(Word::Refused),
            End::Rejected(limit) => return &self.words[REJECTED + limit as usize],
        };
        &self.words[ENDS + row * WAYS + way as usize]
    }

    /// The worker gets on: said after what else it says about that, so that a master that sees no progress has seen
    /// all. Counted, because two threads at once must not leave it as the master has seen it.
    pub(crate) fn progress(&self) {
        self.add(Word::Progress);
    }

    /// An acceptor is about to wait for a request or to accept one. True the first time.
    pub(crate) fn ready(&self) -> bool {
        self.stage() == Stage::Starting && self.enter(Stage::Ready)
    }

    /// An acceptor waits for a request.
    pub(crate) fn begin_waiting(&self) {
        self.add(Word::Waiting);
        self.progress();
    }

    pub(crate) fn end_waiting(&self) {
        self.word(Word::Waiting).fetch_sub(1, Ordering::SeqCst);
        self.progress();
    }

    /// See [`Shared::begin_accepting`](super::Shared::begin_accepting).
    pub(crate) fn accepting(&self) -> &AtomicU64 {
        self.word(Word::Accepting)
    }

    /// An acceptor pauses, because accepting does not work.
    pub(crate) fn begin_pausing(&self) {
        self.add(Word::Pausing);
    }

    pub(crate) fn end_pausing(&self) {
        self.word(Word::Pausing).fetch_sub(1, Ordering::SeqCst);
    }

    /// Goes on to `stage`; true for the one who does.
    pub(crate) fn enter(&self, stage: Stage) -> bool {
        self.word(Word::Stage).fetch_max(stage as u64, Ordering::SeqCst) < stage as u64
    }

    /// It has not waited for a request since it accepted its last, and will not. (Since Linux 5.7 one wake-up is for
    /// one request.)
    pub(crate) fn nothing_is_lost(&self) {
        self.set(Word::NothingLost, 1);
    }

    pub(crate) fn order(&self) -> Order {
        match self.get(Word::Order) {
            1 => Order::Leave,
            2 => Order::Drain,
            3 => Order::Force,
            _ => Order::None,
        }
    }

    /// Leaves word why the worker ends, cut to what there is room for.
    pub(crate) fn set_reason(&self, reason: &str) {
        let end = reason.floor_char_boundary(REASON_WORDS * 8);
        self.set_text(REASON, Word::ReasonLength, &reason.as_bytes()[..end]);
    }

    /// Notes whose request is served from now on, until one has ended.
    pub(crate) fn set_client(&self, client: SocketAddr) {
        // The longest is `[IPv6%scope]:port`, with 64 bytes.
        let mut text = [0; CLIENT_WORDS * 8];
        let mut room = &mut text[..];
        let written = write!(room, "{client}").map_or(0, |()| CLIENT_WORDS * 8 - room.len());
        self.set_text(CLIENT, Word::ClientLength, &text[..written]);
    }

    fn set_text(&self, first: usize, length: Word, text: &[u8]) {
        for (word, bytes) in self.words[first..].iter().zip(text.chunks(8)) {
            let mut padded = [0; 8];
            padded[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_ne_bytes(padded), Ordering::SeqCst);
        }
        self.set(length, text.len() as u64);
    }

    // ----- For the master ------------------------------------------------------------------------

    pub(crate) fn set_order(&self, order: Order) {
        self.set(Word::Order, order as u64);
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.get(Word::Stage) {
            0 => Stage::Starting,
            1 => Stage::Ready,
            2 => Stage::Left,
            _ => Stage::Broken,
        }
    }

    pub(crate) fn is_waiting(&self) -> bool {
        self.get(Word::Waiting) > 0
    }

    /// Whether perhaps a request had woken it that it has not accepted, if it accepts no more.
    pub(crate) fn may_have_lost(&self) -> bool {
        self.get(Word::NothingLost) == 0
    }

    pub(crate) fn is_pausing(&self) -> bool {
        self.get(Word::Pausing) > 0
    }

    pub(crate) fn last_progress(&self) -> u64 {
        self.get(Word::Progress)
    }

    /// Its requests that have ended.
    fn ends(&self) -> impl Iterator<Item = (End, Way, u64)> {
        let ways = |end| [Way::Usual, Way::Drained, Way::Forced].map(|way| (end, way));
        let kinds = [End::Served, End::Failed].into_iter().flat_map(ways);
        let others = LimitKind::ALL.map(End::Rejected).into_iter().chain([End::Refused]);
        let ends = kinds.chain(others.map(|end| (end, Way::Usual)));
        ends.map(|(end, way)| (end, way, self.end(end, way).load(Ordering::SeqCst)))
    }

    /// Adds its requests to the counts of all; returns those that have not ended. In this order: what comes meanwhile
    /// is still in progress, or waits.
    pub(crate) fn add_to(&self, counts: &mut Counts) -> Present {
        let (mut ended, mut turned_away) = (0, 0);
        for (end, way, requests) in self.ends() {
            counts.add(end, way, requests);
            match end {
                End::Served | End::Failed => ended += requests,
                End::Refused | End::Rejected(_) => turned_away += requests,
            }
        }
        let started = self.get(Word::Started);
        counts.started += started;
        Present {
            running: started.saturating_sub(ended),
            waiting: self.get(Word::Accepted).saturating_sub(started + turned_away),
        }
    }

    /// Its requests that have not ended.
    pub(crate) fn present(&self) -> u64 {
        let Present { running, waiting } = self.add_to(&mut Counts::default());
        running + waiting
    }

    pub(crate) fn has_served(&self) -> bool {
        self.ends().any(|(end, _, requests)| end == End::Served && requests > 0)
    }

    /// Why the worker ended, if it has left word.
    pub(crate) fn reason(&self) -> Option<String> {
        self.text(REASON, Word::ReasonLength)
    }

    /// Whose request the worker had in progress, if it has noted that.
    pub(crate) fn client(&self) -> Option<SocketAddr> {
        self.text(CLIENT, Word::ClientLength)?.parse().ok()
    }

    fn text(&self, first: usize, length: Word) -> Option<String> {
        let length = usize::try_from(self.get(length)).ok()?;
        let bytes = self.words[first..]
            .iter()
            .flat_map(|word| word.load(Ordering::SeqCst).to_ne_bytes());
        let bytes: Vec<_> = bytes.take(length).collect();
        (length > 0).then(|| String::from_utf8_lossy(&bytes).into_owned())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn each_request_is_in_one_place() {
        let slot = Slot::new().unwrap();
        assert_eq!((1..=6).map(|_| slot.accepted()).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
        (0..3).for_each(|_| slot.started());
        slot.ended(End::Served, Way::Drained);
        slot.ended(End::Failed, Way::Usual);
        slot.ended(End::Refused, Way::Usual);
        slot.ended(End::Rejected(LimitKind::PerAddress), Way::Usual);
        let ended: Vec<_> = slot.ends().filter(|(_, _, requests)| *requests > 0).collect();
        assert_eq!(
            ended[..2],
            [(End::Served, Way::Drained, 1), (End::Failed, Way::Usual, 1)]
        );
        let mut counts = Counts::default();
        let present = Present { running: 1, waiting: 1 };
        assert_eq!(slot.add_to(&mut counts), present);
        assert_eq!((counts.started, counts.served, counts.failed), (3, 1, 1));
        assert_eq!((counts.refused, counts.rejected.iter().sum::<u64>()), (1, 1));
        assert_eq!((counts.drained, counts.forced), (1, 0));
    }

    #[test]
    fn a_reason_is_kept_and_cut_between_characters() {
        let slot = Slot::new().unwrap();
        assert_eq!(slot.reason(), None);
        slot.set_reason("no database");
        assert_eq!(slot.reason().as_deref(), Some("no database"));
        let long = format!("x{}", "é".repeat(300));
        slot.set_reason(&long);
        assert_eq!(slot.reason().as_deref(), Some(&long[..255]));
    }

    #[test]
    fn a_client_is_known_until_its_request_has_ended() {
        let slot = Slot::new().unwrap();
        assert_eq!(slot.client(), None);
        let longest = "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff%4294967295]:65535";
        for address in ["127.0.0.1:80", longest] {
            let client = address.parse().unwrap();
            slot.set_client(client);
            assert_eq!(slot.client(), Some(client));
        }
        slot.ended(End::Served, Way::Usual);
        assert_eq!(slot.client(), None);
    }

    #[test]
    fn two_threads_that_get_on_at_once_do_not_hide_it() {
        const EACH: u64 = 100_000;
        let slot = Slot::new().unwrap();
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| (0..EACH).for_each(|_| slot.progress()));
            }
        });
        assert_eq!(slot.last_progress(), 2 * EACH);
    }

    #[test]
    fn a_worker_gets_on_with_whatever_it_begins_and_ends() {
        let slot = Slot::new().unwrap();
        let steps: [fn(&Slot); 5] = [
            |slot| {
                slot.accepted();
            },
            |slot| slot.ended(End::Served, Way::Usual),
            Slot::begin_waiting,
            Slot::end_waiting,
            Slot::progress,
        ];
        for (index, step) in steps.iter().enumerate() {
            let before = slot.last_progress();
            step(&slot);
            assert_ne!(slot.last_progress(), before, "step {index}");
        }
    }

    #[test]
    fn only_a_request_that_has_succeeded_has_been_served() {
        let slot = Slot::new().unwrap();
        slot.ended(End::Failed, Way::Usual);
        slot.ended(End::Refused, Way::Usual);
        assert!(!slot.has_served());
        slot.ended(End::Served, Way::Forced);
        assert!(slot.has_served());
    }

    #[test]
    fn a_worker_becomes_ready_once_and_never_goes_back() {
        let slot = Slot::new().unwrap();
        assert_eq!(slot.stage(), Stage::Starting);
        assert!(slot.ready());
        assert!(!slot.ready());
        assert!(slot.enter(Stage::Left));
        assert!(!slot.enter(Stage::Ready));
        assert_eq!(slot.stage(), Stage::Left);
    }
}
