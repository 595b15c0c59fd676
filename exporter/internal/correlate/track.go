package correlate

import "time"

// state of an id in a jail.
type state uint8

const (
	idle      state = iota // not banned
	active                 // banned
	suspended              // lifted by a stop; the ban itself is not over
)

// lift says what lifted a ban.
type lift uint8

const (
	byUnknown lift = iota
	byStop
	byCrash
	byJailStop
	byExpiry
	byManual
)

var liftNames = [...]string{LiftedUnknown, LiftedStop, LiftedCrash, LiftedJailStop, LiftedExpired, LiftedManual}

// source says where a ban time is known from.
type source uint8

const (
	fromUnknown source = iota
	fromSettings
	fromIncrease
	fromLearnt
)

var sourceNames = [...]string{"unknown", "settings", "increase", "learnt"}

// origin of a ban, as a number for the track.
type origin uint8

const (
	originUnknown origin = iota
	originNew
	originGap
	originManual
	originReread
	originUnseen // a ban whose start is not in the log
)

var originCauses = [...]Cause{CauseUnknown, New, Gap, Manual, Reread, ""}

// track is one id in one jail of one host. A million of them must fit into
// memory: what is needed only while something waits hangs on a pointer.
type track struct {
	id    string
	fails failures // of the last find time
	wait  *waits

	started ms // the true ban's start, 0 where not seen
	base    ms // the failure that the ban time runs from
	own     ms // its own ban time: permanent, or 0 where not known
	until   ms // the end, where a line said it
	since   ms // in force since: the ban, or its last restore
	lifted  ms
	banned  ms // in force before since
	ended   ms // the last true end

	liftEpoch uint32 // life of the jail that was lifted
	liftRun   uint32 // run of the host that was lifted
	restores  uint32
	failures  uint32
	bans      uint32 // true bans so far

	state    state
	origin   origin
	liftedBy lift
	endedBy  lift // of the last true end: byExpiry, byManual, or byUnknown for one that does not count
	source   source
	absent   bool // suspended, and not there in a later run
	follows  bool // its ban time is the jail's present one
	exact    bool // base is the time of a failure as fail2ban counts it, not merely that of a line
	certain  bool
	came     came
}

// came says how the present ban came after the one before it.
type came uint8

const (
	cameFirst  came = iota // after none that truly ended
	cameLater              // after a true end, track.ended
	cameAtOnce             // while the last one was suspended
)

// waits is what of a track waits for later lines.
type waits struct {
	restart *restart // that suspended it
	unban   *unban
	ban     *banLine
	restore *restoreLine
	trail   *trail // the lines that prove its verdicts
	lastRow *Ban   // the row of the last ban, until the id fails again
	raise   *raise // an increase that came before its ban
	again   ms     // failures that moved the running ban's end, which the database does not keep
	already ms     // the last "already banned"
	reread  ms     // the last time that a failure was read again
	bad     ms     // the last "is bad"
	known   ms     // the last failure said to be of an id with earlier bans
}

// waiting gives what waits, to be changed; tidy gives its memory back.
func (t *track) waiting() *waits {
	if t.wait == nil {
		t.wait = &waits{}
	}
	return t.wait
}

func (t *track) tidy() {
	if t.wait != nil && *t.wait == (waits{}) {
		t.wait = nil
	}
}

// waits gives what waits, to be read.
func (t *track) waits() waits {
	if t.wait == nil {
		return waits{}
	}
	return *t.wait
}

// end is when the ban is due to end: never for permanent ones, 0 where not known.
func (t *track) end(j *jail) ms {
	d, _ := t.banTime(j)
	end := t.until
	switch {
	case end != 0:
	case d == permanent:
		return never
	case d == 0 || t.base == 0:
		return 0
	default:
		end = t.base + d
	}
	if t.wait != nil && t.wait.again != 0 && d > 0 {
		if present, _ := j.presentBanTime(); present > 0 { // increments do not count for what only prolongs
			d = present
		}
		end = max(end, t.wait.again+d)
	}
	return end
}

// banTime is the ban's time and where it is known from. While the ban runs
// it is the jail's present one, unless a line gave it its own.
func (t *track) banTime(j *jail) (ms, source) {
	if t.follows {
		return j.presentBanTime()
	}
	return t.own, t.source
}

// freeze keeps the ban time that fail2ban's database has: the one at the ban.
func (t *track) freeze(j *jail) {
	if t.follows {
		t.own, t.source = t.banTime(j)
		t.follows = false
	}
}

func (t *track) plannedEnd(j *jail) End {
	switch end := t.end(j); end {
	case 0:
		return End{}
	case never:
		return End{Never: true}
	default:
		return End{At: end.time()}
	}
}

// over tells whether a ban that ends at end is over at a time: fail2ban unbans
// no sooner. Where its reckoning is not known exactly the tolerance helps.
func (j *jail) over(t *track, end, at ms) bool {
	slack := span(j.h.e.o.ExpiryTolerance)
	if t.exact {
		slack = min(slack, exactSlack)
	}
	return end != 0 && end != never && at >= end-slack
}

// exactSlack is how far stamps of one host's threads step back (30 ms in our
// recordings).
const exactSlack ms = 50

// failures are an id's failures by second, oldest first.
type failures []failure

// failure is one second in which the id failed.
type failure struct {
	at     ms
	epoch  uint32
	first  uint16 // ms from it to its first line
	newest uint16 // ms from it to its newest line
	n      uint16 // failures in it, each counted once
	before uint16 // of these, counted before the jail's present life
	again  uint16 // read again in the present life
	late   int16  // -1 while they led to no ban; then how many came after that ban
}

// unused is failure.late of failures that led to no ban yet.
const unused = -1

// raise is an `Increase Ban` that came before its ban.
type raise struct {
	at, until, own ms
}

func maybeSeconds(d ms) Maybe[time.Duration] {
	if d < 0 {
		return Maybe[time.Duration]{}
	}
	return Known(d.duration())
}

func maybeBanTime(d ms) Maybe[time.Duration] {
	switch {
	case d == 0:
		return Maybe[time.Duration]{}
	case d < 0:
		return Known(time.Duration(-1))
	}
	return Known(d.duration())
}
