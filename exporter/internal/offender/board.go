// Package offender ranks ids over all hosts and jails by what they truly did:
// true bans, never restores. It also says which networks and campaigns they
// form, when they come back, and what ban time would hold them.
//
// It is pure: time comes in with what is observed and as an argument. A Board
// is fed fact by fact and never looks back: an id that stays idle costs
// nothing, since its decayed sums are kept relative to its own last ban
// (forward decay). Boards of disjoint hosts merge into the board of the whole.
//
// Facts of different places (a jail of a host) may come in any order. Those of
// one place come in the order of its log; the score does not depend on that
// either, as long as no more than `remembered` newer bans of the id came first.
package offender

import (
	"cmp"
	"math"
	"net/netip"
	"slices"
	"sort"
	"time"
)

// Options say who counts as what. The zero value of a field takes its default.
type Options struct {
	// Score holds the constants of the score; nil takes DefaultScore.
	Score *Score
	// RepeatBans true bans within Window make a repeat offender (2),
	// PersistentBans a persistent one (5).
	RepeatBans, PersistentBans int
	// Window is how far back true bans count for that, and how far back
	// campaigns are looked for. Default 30 days.
	Window time.Duration
	// RecidiveJails ban for bans in other jails: theirs are derived, so they
	// weigh nothing but mark the id as escalated. Default recidive.
	RecidiveJails []string
	// IPv4Prefix (24) and IPv6Prefixes (48, 64) are the lengths of the networks
	// that addresses are gathered in.
	IPv4Prefix   int
	IPv6Prefixes []int
	// Network, where set, names further networks of an address, such as its
	// autonomous system.
	Network func(netip.Addr) []string
	// Origin, where set, tells where an address comes from.
	Origin func(netip.Addr) Origin
	// Campaigns says what counts as one.
	Campaigns CampaignOptions
	// MaxIDs bounds how many ids are kept; 0 is no bound. Beyond it those that
	// tell least are forgotten: see bound.go.
	MaxIDs int
}

// Origin is where an address comes from; empty where it is not known.
type Origin struct {
	Country string // two letters
	ASN     string
}

// originOf tells where an id comes from.
func (o *Options) originOf(id string) Origin {
	if o.Origin == nil {
		return Origin{}
	}
	p, ok := address(id)
	if !ok {
		return Origin{}
	}
	return o.Origin(p.Addr())
}

func (o Options) withDefaults() Options {
	if o.Score == nil {
		s := DefaultScore
		o.Score = &s
	}
	o.RepeatBans, o.PersistentBans = cmp.Or(o.RepeatBans, 2), cmp.Or(o.PersistentBans, 5)
	o.Window = cmp.Or(o.Window, 30*24*time.Hour)
	if o.RecidiveJails == nil {
		o.RecidiveJails = []string{"recidive"}
	}
	o.IPv4Prefix = cmp.Or(o.IPv4Prefix, 24)
	if o.IPv6Prefixes == nil {
		o.IPv6Prefixes = []int{48, 64}
	}
	o.Campaigns = o.Campaigns.withDefaults()
	return o
}

// Place is one jail of one host of one source: hosts of the same name in two
// sources are two hosts.
type Place struct{ Source, Host, Jail string }

func (p Place) compare(q Place) int {
	return cmp.Or(cmp.Compare(p.Source, q.Source), cmp.Compare(p.Host, q.Host), cmp.Compare(p.Jail, q.Jail))
}

// hostKey names a host.
type hostKey struct{ source, host string }

// BanFact is one true ban.
type BanFact struct {
	Place Place
	ID    string
	At    time.Time
	// Delay is the time since the last true end of this id's ban in this place,
	// where HasDelay says that there was one.
	Delay    time.Duration
	HasDelay bool
	// Manual says that an administrator banned.
	Manual bool
}

// EndFact is the end of a ban.
type EndFact struct {
	Place Place
	ID    string
	At    time.Time
	// True says that protection truly ended (it expired, or an administrator
	// ended it), and was not lost, taken over by another ban or merely expected.
	True bool
	// NextFailure is the time from then to the id's next failure in this place,
	// where it is known already (Failed). Else the failure itself tells.
	NextFailure time.Duration
	Failed      bool
}

// remembered is how many of an id's newest bans are known one by one: to tell
// how many fall into the window, and a ban told twice.
const remembered = 32

func (o *Options) keep() int { return max(remembered, o.RepeatBans, o.PersistentBans) }

// Board keeps what each id did.
type Board struct {
	o     Options
	c     constants
	index index
	slabs [][]entry // of slabSize each: what is tracked never moves
	n     uint32    // entries in use or free
	free  []uint32
	pairs []part // room to come: see pair

	placeNo   map[Place]uint32
	lastPlace uint32 // facts of one place often follow each other
	places    []place
	hosts     map[hostKey]uint32
	jails     map[string]uint32

	// Bans that count by the country they came from, as it was told when they
	// came: counters must not fall when ids are forgotten. Empty without Origin.
	countries map[countryKey]uint64

	// The last id that a fact was of: facts of one id follow each other, and one
	// that was just touched is found without the index.
	last   *entry
	lastID string // as it came: comparing with it touches no cold memory
}

const slabSize = 1 << 10

// place is what is known of one jail of one host over all ids.
type place struct {
	Place
	host, jail uint32
	weight     float64
	escalates  bool

	ends                  uint64
	toBan, toFailure      Spans // those that have ended
	before, during, after uint64
	banned                int64 // ms in force, of bans that have ended
}

// entry is one id. Times are Unix milliseconds, 0 is none. What most updates
// touch stands together, and with it the first of each list: most ids need no
// more. The slices point there until they outgrow it.
type entry struct {
	key shortID
	deeds
	host    uint32  // the first that saw it, and 1
	several bool    // hosts saw it
	visits  []visit // by place
	cells   []cell  // the newest, oldest first
	visit0  [1]visit
	cells0  [2]cell

	parts     []part // by host, where several saw it
	escalated bool
	used      bool    // not free
	recent    []stamp // the newest bans that count, oldest first
	recent0   [2]stamp
	id        string
}

// visit is what one id did in one place.
type visit struct {
	place   uint32
	open    bool  // its ban truly ended, and no ban came since
	waiting bool  // nor a failure
	ban     int64 // the newest ban that counts
	start   int64 // the newest ban
	end     int64 // the newest end
}

// stamp is one ban.
type stamp struct {
	at    int64
	place uint32
}

func (s stamp) compare(t stamp) int {
	return cmp.Or(cmp.Compare(s.at, t.at), cmp.Compare(s.place, t.place))
}

// NewBoard makes an empty board.
func NewBoard(o Options) *Board {
	o = o.withDefaults()
	return &Board{
		o: o, c: o.Score.constants(), index: newIndex(), placeNo: map[Place]uint32{}, hosts: map[hostKey]uint32{}, jails: map[string]uint32{},
		countries: map[countryKey]uint64{},
	}
}

// Len counts the ids that something is kept of.
func (b *Board) Len() int { return b.index.n }

// Ban notes a true ban. It tells the standing that the id reached by it, None
// where that is the one it had. A ban told again changes nothing.
func (b *Board) Ban(f BanFact) Standing {
	at, no := f.At.UnixMilli(), b.place(f.Place)
	p := &b.places[no]
	e, share := b.seen(f.ID, p.host, at)
	v := e.visit(no)
	weight := p.weight
	if f.Manual {
		weight *= b.c.manual
	}
	counts := weight > 0
	e.escalated = e.escalated || p.escalates
	if counts && !e.news(at, no, v.ban, b.o.keep()) || !counts && at <= v.start {
		return None
	}
	b.returned(e, v, p, at, f)
	e.cell(b, no, at, 0, 1)
	if !counts {
		return None
	}
	before := e.standing(max(e.ban, at), &b.o)
	weight *= b.c.rho(f.Delay, f.HasDelay)
	e.weigh(weight, at, b.c.decay)
	e.bans++
	if share != nil {
		share.weigh(weight, at, b.c.decay)
		share.bans++
	}
	if b.o.Origin != nil {
		b.countries[countryKey{p.host, b.o.originOf(e.id).Country}]++
	}
	v.ban = max(v.ban, at)
	e.remember(stamp{at, no}, b.o.keep())
	if after := e.standing(e.ban, &b.o); after > before {
		return after
	}
	return None
}

// End notes the end of a ban.
func (b *Board) End(f EndFact) {
	at, no := f.At.UnixMilli(), b.place(f.Place)
	p, e := &b.places[no], b.get(f.ID)
	b.on(e, p.host)
	b.ended(e.visit(no), p, at, f)
}

// Restore notes a restored ban: it shows that the id is banned, and no offence.
func (b *Board) Restore(p Place, id string, at time.Time) {
	e, share := b.seen(id, b.places[b.place(p)].host, at.UnixMilli())
	e.restores++
	if share != nil {
		share.restores++
	}
}

// Failure notes a failure.
func (b *Board) Failure(p Place, id string, at time.Time) {
	t, no := at.UnixMilli(), b.place(p)
	e, share := b.seen(id, b.places[no].host, t)
	e.failures++
	if share != nil {
		share.failures++
	}
	if i, ok := e.find(no); ok {
		b.failed(&e.visits[i], &b.places[no], t)
	}
	e.cell(b, no, t, 1, 0)
}

// GapFailure notes that a failure, already noted as such, came while the host
// or the jail was down.
func (b *Board) GapFailure(p Place, id string, at time.Time) {
	e, share := b.seen(id, b.places[b.place(p)].host, at.UnixMilli())
	e.gapFailures++
	if share != nil {
		share.gapFailures++
	}
}

// Forget drops the ids that did nothing since a time and tells how many.
func (b *Board) Forget(before time.Time) (dropped int) {
	t := before.UnixMilli()
	for i := range b.n {
		e := b.at(i)
		if !e.used || e.last >= t {
			continue
		}
		b.drop(i, t)
		dropped++
	}
	return dropped
}

// all calls f for each id.
func (b *Board) all(f func(*entry)) {
	for i := range b.n {
		if e := b.at(i); e.used {
			f(e)
		}
	}
}

func (b *Board) at(i uint32) *entry { return &b.slabs[i/slabSize][i%slabSize] }

func (b *Board) get(id string) *entry {
	if b.last == nil || b.lastID != id {
		b.last, b.lastID = b.find(id), id
	}
	return b.last
}

func (b *Board) find(id string) *entry {
	if i, ok := b.lookup(id); ok {
		return b.at(i)
	}
	i := b.n
	if k := len(b.free); k > 0 {
		i = b.free[k-1]
		b.free = b.free[:k-1]
	} else {
		if b.n%slabSize == 0 {
			b.slabs = append(b.slabs, make([]entry, slabSize))
		}
		b.n++
	}
	e := b.at(i)
	e.id, e.used = id, true
	e.key, _ = short(id)
	e.visits, e.recent, e.cells = e.visit0[:0], e.recent0[:0], e.cells0[:0]
	b.index.set(id, i)
	return e
}

// seen finds the id, and the host's share where there are others, and notes in
// both that it did something.
func (b *Board) seen(id string, host uint32, at int64) (e *entry, share *deeds) {
	b.bound()
	e = b.get(id)
	if share = b.on(e, host); share != nil {
		share.saw(at)
	}
	e.saw(at)
	return e, share
}

func (b *Board) place(p Place) uint32 {
	if int(b.lastPlace) < len(b.places) && b.places[b.lastPlace].Place == p {
		return b.lastPlace
	}
	no, ok := b.placeNo[p]
	if !ok {
		no = uint32(len(b.places))
		b.placeNo[p] = no
		b.places = append(b.places, place{
			Place: p, host: number(b.hosts, hostKey{p.Source, p.Host}), jail: number(b.jails, p.Jail),
			weight: b.o.weight(p.Jail), escalates: slices.Contains(b.o.RecidiveJails, p.Jail),
		})
	}
	b.lastPlace = no
	return no
}

// find looks for what the id did in a place.
func (e *entry) find(place uint32) (int, bool) {
	if len(e.visits) == 1 {
		return 0, e.visits[0].place == place
	}
	i := sort.Search(len(e.visits), func(i int) bool { return e.visits[i].place >= place })
	return i, i < len(e.visits) && e.visits[i].place == place
}

func (e *entry) visit(place uint32) *visit {
	if len(e.visits) == 1 && e.visits[0].place == place {
		return &e.visits[0]
	}
	i, ok := slices.BinarySearchFunc(e.visits, place, func(v visit, p uint32) int { return cmp.Compare(v.place, p) })
	if !ok {
		e.visits = slices.Insert(e.visits, i, visit{place: place})
	}
	return &e.visits[i]
}

// news tells whether a ban is not one noted before. newest is the newest of
// its place. A ban older than all that are remembered is taken for known, since
// the bans of a place come in their order.
func (e *entry) news(at int64, place uint32, newest int64, keep int) bool {
	if newest == 0 || at > newest {
		return true
	}
	i, found := slices.BinarySearchFunc(e.recent, stamp{at, place}, stamp.compare)
	return !found && (i > 0 || len(e.recent) < keep)
}

// remember keeps the newest n bans in order, whatever order they come in.
func (e *entry) remember(s stamp, n int) {
	if k := len(e.recent); k < n && (k == 0 || e.recent[k-1].compare(s) < 0) {
		e.recent = append(e.recent, s)
		return
	}
	i, _ := slices.BinarySearchFunc(e.recent, s, stamp.compare)
	if i == 0 && len(e.recent) >= n {
		return
	}
	if len(e.recent) < n {
		e.recent = slices.Insert(e.recent, i, s)
		return
	}
	copy(e.recent, e.recent[1:i])
	e.recent[i-1] = s
}

func number[K comparable](names map[K]uint32, name K) uint32 {
	n, ok := names[name]
	if !ok {
		n = uint32(len(names))
		names[name] = n
	}
	return n
}

func timeOf(milli int64) time.Time {
	if milli == 0 {
		return time.Time{}
	}
	return time.UnixMilli(milli).UTC()
}

func milliOf(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixMilli()
}

// share is a part of a whole, 0 of nothing.
func share(part, whole float64) float64 {
	if whole == 0 {
		return 0
	}
	return math.Min(1, part/whole)
}
