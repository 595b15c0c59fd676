package correlate

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
)

// snapshotMagic begins a snapshot; its last byte is the version of the layout.
const snapshotMagic = "f2b-engine\x02"

// Snapshot writes the engine's state, from which Load goes on as if nothing had
// been between. Findings not yet taken are not part of it: it is an error to
// leave any behind. Nor are rows already said (Options.Rows) and the lines kept
// to explain verdicts. Equal states give equal bytes.
func (e *Engine) Snapshot(w io.Writer) error { return e.write(&codec{w: w}) }

// Dump writes what Snapshot does, with the ids in any order: putting a million
// in order takes as long as half of the rest, and Load does not need it.
func (e *Engine) Dump(w io.Writer) error { return e.write(&codec{w: w, anyOrder: true}) }

func (e *Engine) write(c *codec) error {
	if len(e.findings) > 0 {
		return fmt.Errorf("correlate: snapshot with %d findings not yet taken", len(e.findings))
	}
	c.buf = append(c.buf, snapshotMagic...)
	c.engine(e)
	c.flush(true)
	if c.err == nil {
		_, c.err = c.w.Write(binary.BigEndian.AppendUint32(nil, c.sum))
	}
	if c.err != nil {
		return fmt.Errorf("correlate: snapshot: %w", c.err)
	}
	return nil
}

// Load reads a snapshot. The options are the caller's: a snapshot taken under
// others gives verdicts of both. ErrDamaged tells a snapshot that is none.
func Load(r io.Reader, o Options) (*Engine, error) {
	c := &codec{r: r}
	if string(c.need(len(snapshotMagic))) != snapshotMagic && c.err == nil {
		c.fail(fmt.Errorf("%w: not a snapshot of this version", ErrDamaged))
	}
	e := NewEngine(o)
	c.engine(e)
	if c.err == nil {
		sum := crc32.Update(c.sum, castagnoli, c.buf[:c.pos])
		if b := c.need(4); b != nil && binary.BigEndian.Uint32(b) != sum {
			c.fail(fmt.Errorf("%w: the check sum is wrong", ErrDamaged))
		}
	}
	if c.err != nil {
		return nil, fmt.Errorf("correlate: snapshot: %w", c.err)
	}
	return e, nil
}

var errTwice = errors.New("a name twice")

func (c *codec) engine(e *Engine) {
	names := slices.Sorted(maps.Keys(e.hosts))
	list(c, &names, func(name *string) {
		text(c, name)
		if c.writing() {
			c.host(e.hosts[*name])
			return
		}
		if e.hosts[*name] != nil {
			c.fail(fmt.Errorf("%w: %w", ErrDamaged, errTwice))
			return
		}
		c.host(e.host(*name))
	})
}

func (c *codec) host(h *host) {
	for _, p := range []*ms{&h.first, &h.clock, &h.last, &h.lastOther, &h.unbans.from, &h.unbans.last} {
		number(c, p)
	}
	for _, p := range []*uint64{&h.seq, &h.lifecycle, &h.events, &h.counts[0], &h.counts[1], &h.counts[2]} {
		number(c, p)
	}
	number(c, &h.unbans.n)
	number(c, &h.byHand.n)
	for i := range h.byHand.last {
		number(c, &h.byHand.last[i])
	}
	if h.byHand.n < 0 {
		c.fail(ErrDamaged)
	}
	text(c, &h.version)
	c.flags(&h.settings, &h.seenBefore, &h.stale, &h.informed, &h.reload.open, &h.reload.all, &h.reload.listed, &h.reload.stopping)
	text(c, &h.reload.jail)
	c.run(&h.run)
	c.restarts(h)
	c.jails(h)
	if !c.writing() {
		h.due = 0 // the first line finds out what waits
	}
}

func (c *codec) run(r *run) {
	number(c, &r.epoch)
	number(c, &r.pid)
	for _, p := range []*ms{&r.started, &r.stopping, &r.exited, &r.lastJail} {
		number(c, p)
	}
	c.flags(&r.inferred, &r.database)
	text(c, &r.thread)
	text(c, &r.ended)
}

// restarts codes the host's restarts, those not yet said first: others point to
// them by their place.
func (c *codec) restarts(h *host) {
	live := c.count(len(h.restarts))
	if c.writing() {
		c.gatherRestarts(h)
	}
	list(c, &c.all, func(p **restart) {
		if !c.writing() {
			*p = &restart{}
		}
		r := *p
		text(c, &r.scope)
		text(c, &r.kind)
		number(c, &r.stopped)
		number(c, &r.started)
		number(c, &r.seq)
		c.flags(&r.certain, &r.clean)
		for _, n := range []*int{&r.active, &r.restored, &r.over, &r.lost, &r.gapFailures, &r.open} {
			number(c, n)
		}
	})
	if c.writing() {
		return
	}
	if live > len(c.all) {
		c.fail(ErrDamaged)
		return
	}
	h.restarts = slices.Clone(c.all[:live])
}

func (c *codec) gatherRestarts(h *host) {
	c.seen, c.all = map[*restart]uint32{}, nil
	add := func(r *restart) {
		if _, ok := c.seen[r]; r != nil && !ok {
			c.seen[r] = uint32(len(c.all))
			c.all = append(c.all, r)
		}
	}
	for _, r := range h.restarts {
		add(r)
	}
	for _, j := range h.sortedJails() {
		add(j.restart)
		if j.suspended == 0 {
			continue
		}
		for _, t := range j.sorted(func(t *track) bool { return t.waits().restart != nil }) {
			add(t.wait.restart)
		}
	}
}

// restart codes a pointer to one of the host's restarts.
func (c *codec) restart(p **restart) {
	var place uint32
	if c.writing() && *p != nil {
		place = c.seen[*p] + 1
	}
	number(c, &place)
	switch {
	case c.writing() || place == 0:
	case int(place) > len(c.all):
		c.fail(ErrDamaged)
	default:
		*p = c.all[place-1]
	}
}

func (c *codec) jails(h *host) {
	names := slices.Sorted(maps.Keys(h.jails))
	list(c, &names, func(name *string) {
		text(c, name)
		if !c.writing() && (*name == "" || h.jails[*name] != nil) {
			c.fail(fmt.Errorf("%w: %w", ErrDamaged, errTwice))
			return
		}
		if !c.writing() {
			h.jail(*name)
		}
		c.jail(h.jails[*name])
	})
	var block string
	if h.block != nil {
		block = h.block.name
	}
	text(c, &block)
	if !c.writing() {
		h.block = h.jails[block]
	}
}

func (c *codec) jail(j *jail) {
	for _, p := range []*ms{&j.banTime, &j.findTime, &j.createdAt, &j.startedAt, &j.stoppedAt, &j.stopping, &j.liftedAt, &j.touched, &j.firstLine, &j.lastLine} {
		number(c, p)
	}
	for _, p := range []*uint32{&j.epoch, &j.run, &j.foundRun} {
		number(c, p)
	}
	number(c, &j.maxRetry)
	c.flags(&j.stoppedYet, &j.foundLines, &j.timed)
	for i := range j.learnt.last {
		number(c, &j.learnt.last[i])
	}
	if number(c, &j.learnt.n); j.learnt.n < 0 {
		c.fail(ErrDamaged)
	}
	list(c, &j.files, func(s *string) { text(c, s) })
	c.restart(&j.restart)
	c.counters(&j.counts)
	c.histogram(&j.gaps)
	c.histogram(&j.reoffence)
	c.tracks(j)
	c.waitingLines(j)
	if !c.writing() {
		j.due = 0
		j.planAll()
	}
}

func (c *codec) counters(n *Counts) {
	for _, group := range [][]uint64{n.Verbs[:], n.Bans[:], n.Restored[:], n.Unbans[:]} {
		for i := range group {
			number(c, &group[i])
		}
	}
	for _, p := range []*uint64{
		&n.Failures, &n.Reread, &n.Lost, &n.GapFailures, &n.Reoffences, &n.PrematureUnbans, &n.FailuresWhileBanned, &n.ActionErrors,
	} {
		number(c, p)
	}
}

func (c *codec) tracks(j *jail) {
	if c.writing() {
		c.writeTracks(j)
		return
	}
	n := c.count(0)
	j.tracks = make(map[string]*track, min(n, 1<<20))
	for range n {
		t := &track{}
		c.track(t)
		if c.err != nil {
			return
		}
		if t.state > suspended || int(t.origin) >= len(originCauses) || int(t.liftedBy) >= len(liftNames) ||
			int(t.endedBy) >= len(liftNames) || int(t.source) >= len(sourceNames) || j.tracks[t.id] != nil {
			c.fail(fmt.Errorf("%w: an id's state", ErrDamaged))
			return
		}
		j.tracks[t.id] = t
		j.h.e.keys++
		s := t.state
		t.state = idle
		j.setState(t, s)
	}
}

func (c *codec) writeTracks(j *jail) {
	c.count(len(j.tracks))
	if c.anyOrder {
		for _, t := range j.tracks {
			c.track(t)
		}
		return
	}
	for _, k := range byID(j.tracks) {
		c.track(k.t)
	}
}

// keyed is a track with the beginning of its id, so that most of a million can be
// put in order without a look at them.
type keyed struct {
	hi, lo uint64
	t      *track
}

func byID(tracks map[string]*track) []keyed {
	all := make([]keyed, 0, len(tracks))
	for id, t := range tracks {
		var head [16]byte
		copy(head[:], id)
		all = append(all, keyed{binary.BigEndian.Uint64(head[:8]), binary.BigEndian.Uint64(head[8:]), t})
	}
	slices.SortFunc(all, func(a, b keyed) int {
		if c := cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo)); c != 0 {
			return c
		}
		return strings.Compare(a.t.id, b.t.id)
	})
	return all
}

func (c *codec) track(t *track) {
	text(c, &t.id)
	number(c, &t.state)
	number(c, &t.origin)
	number(c, &t.liftedBy)
	number(c, &t.endedBy)
	number(c, &t.source)
	number(c, &t.came)
	for _, p := range [...]*uint32{&t.liftEpoch, &t.liftRun, &t.restores, &t.failures, &t.bans} {
		number(c, p)
	}
	// times stand close together: what follows the first is told from it
	number(c, &t.started)
	for _, p := range [...]*ms{&t.base, &t.until, &t.since, &t.lifted, &t.ended} {
		c.near(p, t.started)
	}
	number(c, &t.own)
	number(c, &t.banned)
	wait := t.wait != nil && t.wait.lasting() != (waits{})
	c.flags(&t.absent, &t.follows, &t.certain, &t.exact, &wait)
	n := c.count(len(t.fails))
	if !c.writing() && n > 0 && c.err == nil {
		if n > maxFailures {
			c.fail(fmt.Errorf("%w: %d failures", ErrDamaged, n))
			return
		}
		t.fails = make(failures, n)
	}
	for i := range t.fails {
		c.failure(&t.fails[i], t.started)
	}
	if wait {
		c.waits(t)
	}
}

// near codes a time as its distance from another; 0 stays 0.
func (c *codec) near(p *ms, from ms) {
	there := *p != 0
	d := *p - from
	if c.writing() {
		if !there {
			d = -1 << 62
		}
		number(c, &d)
		return
	}
	if number(c, &d); d != -1<<62 {
		*p = from + d
	}
}

func (c *codec) failure(f *failure, from ms) {
	c.near(&f.at, from)
	number(c, &f.epoch)
	number(c, &f.first)
	number(c, &f.newest)
	number(c, &f.n)
	number(c, &f.before)
	number(c, &f.again)
	number(c, &f.late)
	if f.late < unused || f.n > math.MaxInt16 {
		c.fail(ErrDamaged)
	}
}

// lasting is what of the waits a snapshot holds beside the lists of its jail.
func (w *waits) lasting() waits {
	return waits{restart: w.restart, raise: w.raise, again: w.again, already: w.already, reread: w.reread, bad: w.bad, known: w.known}
}

func (c *codec) waits(t *track) {
	w := t.waiting()
	c.restart(&w.restart)
	pointer(c, &w.raise, func(r *raise) {
		number(c, &r.at)
		number(c, &r.until)
		number(c, &r.own)
	})
	number(c, &w.again)
	number(c, &w.already)
	number(c, &w.reread)
	number(c, &w.bad)
	number(c, &w.known)
}

// waitingLines codes the lines that wait, each with the id it speaks of.
func (c *codec) waitingLines(j *jail) {
	j.unbans = c.unbans(j, j.unbans, func(u *unban) bool { return u.t.waits().unban == u }, func(u *unban) { u.t.waiting().unban = u })
	j.held = c.unbans(j, j.held, func(*unban) bool { return true }, func(*unban) {})
	bans := slices.DeleteFunc(slices.Clone(j.waiting), func(b *banLine) bool { return b.t.waits().ban != b })
	list(c, &bans, func(p **banLine) {
		if !c.writing() {
			*p = &banLine{}
		}
		c.banLine(j, *p)
	})
	restores := slices.Clone(j.restores)
	list(c, &restores, func(p **restoreLine) {
		if !c.writing() {
			*p = &restoreLine{row: &Restore{}}
		}
		c.restoreLine(j, *p)
	})
	if !c.writing() {
		j.waiting, j.restores = bans, restores
	}
}

func (c *codec) unbans(j *jail, us []*unban, live func(*unban) bool, attach func(*unban)) []*unban {
	kept := slices.DeleteFunc(slices.Clone(us), func(u *unban) bool { return !live(u) })
	list(c, &kept, func(p **unban) {
		if !c.writing() {
			*p = &unban{}
		}
		u := *p
		number(c, &u.at)
		number(c, &u.seq)
		c.flags(&u.automatic)
		if c.of(j, &u.t) && !c.writing() {
			attach(u)
		}
	})
	if c.writing() {
		return us
	}
	return kept
}

// of codes the id that a line speaks of.
func (c *codec) of(j *jail, p **track) bool {
	var id string
	if c.writing() {
		id = (*p).id
	}
	text(c, &id)
	if !c.writing() {
		if *p = j.tracks[id]; *p == nil {
			*p = &track{id: id}
			c.fail(fmt.Errorf("%w: a line of an unknown id", ErrDamaged))
			return false
		}
	}
	return c.err == nil
}

func (c *codec) banLine(j *jail, b *banLine) {
	for _, p := range []*ms{&b.at, &b.until, &b.own} {
		number(c, p)
	}
	number(c, &b.seq)
	c.flags(&b.found, &b.raised, &b.bad)
	if c.of(j, &b.t) && !c.writing() {
		b.t.waiting().ban = b
	}
}

func (c *codec) restoreLine(j *jail, w *restoreLine) {
	number(c, &w.at)
	number(c, &w.lifted)
	number(c, &w.due)
	number(c, &w.seq)
	waits := c.writing() && w.t.waits().restore == w
	c.flags(&w.failed, &waits)
	if c.of(j, &w.t) && !c.writing() && waits {
		w.t.waiting().restore = w
	}
	c.restoreRow(j, w)
}

func (c *codec) restoreRow(j *jail, w *restoreLine) {
	r := w.row
	r.Host, r.Jail, r.ID = j.h.name, j.name, w.t.id
	text(c, &r.Cause)
	text(c, &r.Confidence)
	text(c, &r.LiftedBy)
	for _, p := range []*time.Time{&r.Time, &r.RestartStarted, &r.BanStarted, &r.PlannedEnd.At, &r.Lifted} {
		c.time(p)
	}
	for _, p := range []*Maybe[time.Duration]{&r.BanTime, &r.Remaining, &r.Gap, &r.GapMax} {
		number(c, &p.V)
		c.flags(&p.OK)
	}
	number(c, &r.GapFailures)
	number(c, &r.Number.V)
	c.flags(&r.PlannedEnd.Never, &r.Number.OK, &r.FailedAgain.V, &r.FailedAgain.OK)
}

func (c *codec) time(p *time.Time) {
	m := msOf(*p)
	number(c, &m)
	*p = m.time()
}
