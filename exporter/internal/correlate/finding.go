package correlate

import (
	"cmp"
	"time"
)

// Maybe is a value that the log may not tell.
type Maybe[T any] struct {
	V  T
	OK bool
}

// Known wraps a value that the log told.
func Known[T any](v T) Maybe[T] { return Maybe[T]{V: v, OK: true} }

// End is when a ban is due to end: at a time, never, or not known (the zero End).
type End struct {
	At    time.Time
	Never bool
}

// Confidence says how well the log proves a verdict.
type Confidence string

// The confidences.
const (
	Certain Confidence = "certain"
	Likely  Confidence = "likely"
	Unsure  Confidence = "unknown"
)

// Cause is why a restore, a ban or an unban happened. The three closed sets
// share the value CauseUnknown.
type Cause string

// The causes of restores, the origins of bans, the causes of unbans.
const (
	CauseUnknown Cause = "unknown"

	CleanRestart Cause = "clean_restart" // the server stopped in order and came back
	Crash        Cause = "crash"         // the last run ended without a word
	JailRestart  Cause = "jail_restart"  // the jail alone was stopped and made again
	Zombie       Cause = "zombie"        // the ban had truly ended before, its database row had not
	Orphan       Cause = "orphan"        // the run is in the log, the ban it restores is not

	New    Cause = "new"    // failures after the last true end
	Gap    Cause = "gap"    // failures while the ban was suspended by a stop
	Reread Cause = "reread" // the watched log was read again: the same offence
	Manual Cause = "manual" // an administrator's, for bans and unbans

	Expired  Cause = "expired"
	Shutdown Cause = "shutdown"
	JailStop Cause = "jail_stop"
)

// Causes of each kind in the order that tables and metrics list them.
var (
	RestoreCauses = []Cause{CleanRestart, Crash, JailRestart, Zombie, Orphan, CauseUnknown}
	BanOrigins    = []Cause{New, Gap, Manual, CauseUnknown} // true bans; re-reads are counted apart
	UnbanCauses   = []Cause{Expired, Shutdown, JailStop, Manual, CauseUnknown}
)

// What ended or lifted a ban, beyond the causes that share a word.
const (
	EndedExpired  = "expired"
	EndedManual   = "manual"
	EndedGap      = "gap"      // a renewed attack took over while the ban was suspended
	EndedLost     = "lost"     // active at a stop, not over, never restored
	EndedExpected = "expected" // no line says it; the planned end passed
	EndedOpen     = "open"     // still running
	EndedUnknown  = "unknown"

	LiftedStop     = "stop"
	LiftedCrash    = "crash"
	LiftedJailStop = "jail_stop"
	LiftedExpired  = "expired"
	LiftedManual   = "manual"
	LiftedUnknown  = "unknown"
)

// FindingKind names a kind of finding, as pushed to Loki.
type FindingKind string

// The kinds. FindingEvent is the row of `report events` and is made only where
// Options.Events asks for it; it is never pushed.
const (
	FindingEvent          FindingKind = "event"
	FindingBan            FindingKind = "ban"
	FindingRestore        FindingKind = "restore"
	FindingGap            FindingKind = "gap"
	FindingLost           FindingKind = "lost_ban"
	FindingReoffence      FindingKind = "reoffence"
	FindingPrematureUnban FindingKind = "premature_unban"
	FindingRestart        FindingKind = "restart"
)

// Finding is an immutable fact, said once, when the log has proved it. Exactly
// the row that belongs to Kind is set: Restore for restore and gap, Reoffence
// for reoffence and premature_unban.
type Finding struct {
	Kind FindingKind
	// Time is the event's own, not the moment at which it was settled.
	Time time.Time
	Host string
	// Seq orders findings of one host with the same time: the number of the
	// host's event that they are about.
	Seq  uint64
	Jail string
	ID   string

	Event     *Occurrence
	Ban       *Ban
	Restore   *Restore
	Lost      *Lost
	Reoffence *Reoffence
	Restart   *Restart

	// Proof are the log's lines that prove it, in their order; only where
	// Options.Explain asks for them.
	Proof []Line
}

// Line is a line of the log.
type Line struct {
	Time time.Time
	Text string
	seq  uint64 // of the host's lines: equal texts are different lines
}

// Compare orders findings by time, host and the order of the log: the order of
// every report, the same however the lines were cut into batches.
func Compare(a, b Finding) int {
	return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Seq, b.Seq),
		cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Jail, b.Jail), cmp.Compare(a.ID, b.ID))
}

// Occurrence is one event of the log with its verdict: a row of `report events`.
type Occurrence struct {
	Time       time.Time
	Host       string
	Jail, ID   string
	Event      string // found ban restore unban reban increase already_banned ignored action_error server_start server_stop jail_start jail_stop reload
	Cause      Cause  // of restores, bans and unbans; else empty
	Confidence Confidence
	Detail     string // of unbans by hand: scope=all, scheduled
}

// Ban is one ban from its true start to its true end, through all its restores.
type Ban struct {
	Host, Jail, ID string
	Started        time.Time // zero where the start is not in the log
	Ended          time.Time // zero while open
	EndedBy        string
	Confidence     Confidence
	Origin         Cause
	BanTime        Maybe[time.Duration]
	BanTimeSource  string // settings increase learnt unknown
	PlannedEnd     End
	Banned         time.Duration        // time in force, without its gaps
	Gap            time.Duration        // time lifted by stops between start and end
	Restores       int                  // restores of this ban so far
	Failures       int                  // failures that led to it
	Count          int                  // the how-many-th true ban of this id in this jail on this host
	Reoffence      Maybe[time.Duration] // since the last true end
	NextFailure    Maybe[time.Duration] // from the true end to the next failure
	Detail         string               // of the unban by hand that ended it: scope=all, scheduled
}

// Restore is one `Restore Ban` line (or a plain Ban of 0.8/0.9 that was one),
// and also the row of a gap ban.
type Restore struct {
	Time           time.Time
	Host, Jail, ID string
	Cause          Cause
	Confidence     Confidence
	RestartStarted time.Time // start of the server run or of the jail that restored it
	BanStarted     time.Time // the true ban's start; zero for orphans
	BanTime        Maybe[time.Duration]
	PlannedEnd     End
	Remaining      Maybe[time.Duration]
	Lifted         time.Time
	LiftedBy       string
	Gap            Maybe[time.Duration] // empty after a crash
	GapMax         Maybe[time.Duration]
	GapFailures    int
	Number         Maybe[int]  // restores since the last true ban; empty for orphans
	FailedAgain    Maybe[bool] // between lift and restore or soon after; empty when the jail logs no Found
}

// Lost is a ban that was active at a stop, not over, and never came back.
type Lost struct {
	Host, Jail, ID string
	BanStarted     time.Time
	Lifted         time.Time
	PlannedEnd     End
	RestartStarted time.Time
	Confidence     Confidence
}

// Reoffence is the next true ban after a true end.
type Reoffence struct {
	Host, Jail, ID  string
	PreviousEnded   time.Time
	PreviousEndedBy string
	Time            time.Time
	Delay           time.Duration
	Premature       bool // the end was an administrator's, and the ban came within the premature window
	PreviousBanTime Maybe[time.Duration]
}

// Restart is a restart of a server or of one jail.
type Restart struct {
	Host           string
	Scope          string // "server" or the jail's name
	Kind           string // clean crash unknown, for jails jail reload
	Confidence     Confidence
	Stopped        time.Time // after a crash the last line of the old run
	Started        time.Time
	Down           Maybe[time.Duration]
	ActiveBefore   int
	Restored       int
	EndedMeanwhile int
	Lost           int
	GapFailures    int
}
