package offender

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"time"
)

// CampaignOptions say what counts as a campaign. The zero value of a field
// takes its default.
type CampaignOptions struct {
	// Window is how close in time ids attack the same place. Default 20 min.
	Window time.Duration
	// IDs (5) from Networks (3) is how small a campaign may be.
	IDs, Networks int

	half int64 // ms in half a window
}

func (o CampaignOptions) withDefaults() CampaignOptions {
	o.Window = cmp.Or(o.Window, 20*time.Minute)
	o.IDs, o.Networks = cmp.Or(o.IDs, 5), cmp.Or(o.Networks, 3)
	o.half = max(1, o.Window.Milliseconds()/2)
	return o
}

// bucket is the half of a window that a time falls into, start where one begins.
// A window is two halves that follow each other, so that what happens within
// half a window of time is within one window, wherever it begins.
func (o *CampaignOptions) bucket(at int64) uint32    { return uint32(at / o.half) }
func (o *CampaignOptions) start(bucket uint32) int64 { return int64(bucket) * o.half }

// cell is what an id did in one place in half a window.
type cell struct {
	bucket, place  uint32
	failures, bans uint16
	first, last    uint16 // seconds into it
}

func (c cell) compare(d cell) int {
	return cmp.Or(cmp.Compare(c.bucket, d.bucket), cmp.Compare(c.place, d.place))
}

// maxCells is how many an id has at most: the newest. Who has more is no quiet
// member of a crowd.
const maxCells = 32

// cell counts what the id did into its cell, whatever order facts come in.
func (e *entry) cell(b *Board, place uint32, at int64, failures, bans uint16) {
	o := &b.o.Campaigns
	c := cell{bucket: o.bucket(at), place: place, failures: failures, bans: bans}
	c.first = uint16((at - o.start(c.bucket)) / 1000)
	c.last = c.first
	e.put(c)
}

func (e *entry) put(c cell) {
	i := len(e.cells)
	for ; i > 0 && e.cells[i-1].compare(c) >= 0; i-- {
	}
	if i < len(e.cells) && e.cells[i].compare(c) == 0 {
		e.cells[i].add(c)
		return
	}
	if len(e.cells) < maxCells {
		e.cells = slices.Insert(e.cells, i, c)
		return
	}
	if i == 0 {
		return
	}
	copy(e.cells, e.cells[1:i])
	e.cells[i-1] = c
}

func (c *cell) add(d cell) {
	c.failures = uint16(min(math.MaxUint16, int(c.failures)+int(d.failures)))
	c.bans = uint16(min(math.MaxUint16, int(c.bans)+int(d.bans)))
	c.first, c.last = min(c.first, d.first), max(c.last, d.last)
}

// Campaign is a crowd of ids that attacked the same places at the same times.
type Campaign struct {
	Rank     int // from 1
	IDs      []string
	Networks int // /24 and the shortest of the configured IPv6 networks
	Hosts    int
	Jails    int
	Started  time.Time // to the second
	Ended    time.Time
	Failures int // within the campaign
	Bans     int
}

// Campaigns finds the crowds of the window of time that ends at now, those of
// more ids first.
//
// A window of a place (and of a jail on all hosts together) is crowded if it
// holds far more passing ids than the place usually sees: so many that chance
// would hardly bring it about once on the board. Windows next to a crowded one
// belong to it if they hold clearly more than usual. Crowded windows belong
// together if they are of one jail and touch in time, or if half of the ids of
// one are in the other. Their ids are the campaign, but for those that were
// elsewhere more often.
func (b *Board) Campaigns(now time.Time, top int) []Campaign {
	from := b.o.Campaigns.bucket(max(0, now.Add(-b.o.Window).UnixMilli()))
	to := b.o.Campaigns.bucket(max(0, now.UnixMilli()))
	g := newGathering(b, from, to)
	g.find()
	if len(g.crowds) == 0 {
		return nil
	}
	found := newFirst(top, func(x, y Campaign) int {
		return cmp.Or(cmp.Compare(len(y.IDs), len(x.IDs)), cmp.Compare(y.Failures, x.Failures), x.Started.Compare(y.Started), cmp.Compare(x.IDs[0], y.IDs[0]))
	})
	for _, m := range g.join() {
		if c := b.campaign(m); len(c.IDs) >= b.o.Campaigns.IDs && c.Networks >= b.o.Campaigns.Networks {
			found.add(c)
		}
	}
	out := found.sorted()
	for i := range out {
		out[i].Rank = i + 1
	}
	return out
}

// window names a window: of a place, or of a jail on the whole fleet. In order
// they are by place, then by time.
type window uint64

const onFleet window = 1 << 63

func windowOf(fleet bool, place, bucket uint32) window {
	w := window(place&^(1<<31))<<32 | window(bucket)
	if fleet {
		w |= onFleet
	}
	return w
}

func (w window) where() window  { return w >> 32 }
func (w window) bucket() uint32 { return uint32(w) }

// gathering is the search for crowds.
type gathering struct {
	b        *Board
	from, to uint32
	crowds   []crowd // by window

	// Places and jails by number, in the order of their names, so that the order
	// in which they came does not matter.
	placeRank, jailRank []uint32
	jailAt              []uint32 // by the rank of the place
}

func newGathering(b *Board, from, to uint32) *gathering {
	g := &gathering{b: b, from: from, to: to, jailRank: make([]uint32, len(b.jails)), jailAt: make([]uint32, len(b.places))}
	for i, name := range slices.Sorted(maps.Keys(b.jails)) {
		g.jailRank[b.jails[name]] = uint32(i)
	}
	_, g.placeRank = b.renumber()
	for i, rank := range g.placeRank {
		g.jailAt[rank] = g.jailRank[b.places[i].jail]
	}
	return g
}

// crowd is one crowded window.
type crowd struct {
	window
	ids  int
	root int // of the union it belongs to
}

// resident is how long ids must go on, with pauses no longer than pause, to be
// of the place: they are no crowd that passes.
const (
	resident = int64(24 * time.Hour / time.Millisecond)
	pause    = int64(3 * time.Hour / time.Millisecond)
)

// passing gives the cells of an id's short visits within the search.
func (g *gathering) passing(e *entry) []cell {
	o := &g.b.o.Campaigns
	var out []cell
	for i := 0; i < len(e.cells); {
		k := i + 1
		for ; k < len(e.cells) && o.start(e.cells[k].bucket)-o.start(e.cells[k-1].bucket) <= pause; k++ {
		}
		began := o.start(e.cells[i].bucket)
		if i == 0 && len(e.cells) == maxCells {
			began = min(began, e.first) // older ones are forgotten
		}
		if o.start(e.cells[k-1].bucket)-began < resident {
			out = append(out, e.cells[i:k]...)
		}
		i = k
	}
	return slices.DeleteFunc(out, func(c cell) bool { return c.bucket < g.from || c.bucket > g.to })
}

// windows appends the windows that the cells are in, of places or of the fleet,
// each once, in order.
func (g *gathering) windows(out []window, cells []cell, places, fleet bool) []window {
	n := len(out)
	for i := range cells {
		c := &cells[i]
		place := g.placeRank[c.place]
		for bucket := c.bucket - 1; bucket != c.bucket+1; bucket++ {
			if places {
				out = append(out, windowOf(false, place, bucket))
			}
			if fleet {
				out = append(out, windowOf(true, g.jailAt[place], bucket))
			}
		}
	}
	slices.Sort(out[n:])
	return out[:n+len(slices.Compact(out[n:]))]
}

// find finds the crowded windows: first those of places, then those of the fleet
// with the ids that are in none of the first.
func (g *gathering) find() {
	var all []window
	g.b.all(func(e *entry) { all = g.windows(all, g.passing(e), true, false) })
	g.count(all)
	all = all[:0]
	g.b.all(func(e *entry) {
		cells := g.passing(e)
		if !slices.ContainsFunc(cells, func(c cell) bool { return g.rootOf(&c) >= 0 }) {
			all = g.windows(all, cells, false, true)
		}
	})
	g.count(all)
}

// count counts the ids in windows and takes the crowded ones.
func (g *gathering) count(all []window) {
	if len(all) == 0 {
		return
	}
	slices.Sort(all)
	var counts []crowd
	oldest, newest, places := uint32(math.MaxUint32), uint32(0), 0
	for i := 0; i < len(all); {
		k := i + 1
		for ; k < len(all) && all[k] == all[i]; k++ {
		}
		if i == 0 || all[i].where() != all[i-1].where() {
			places++
		}
		oldest, newest = min(oldest, all[i].bucket()), max(newest, all[i].bucket())
		counts = append(counts, crowd{window: all[i], ids: k - i})
		i = k
	}
	windows := int(newest-oldest) + 1
	chance := 0.01 / (float64(windows) * float64(places))
	for i := 0; i < len(counts); {
		k := i + 1
		for ; k < len(counts) && counts[k].where() == counts[i].where(); k++ {
		}
		g.crowded(counts[i:k], windows, chance)
		i = k
	}
	for i := range g.crowds {
		g.crowds[i].root = i
	}
}

// crowded takes the crowded windows of one place, which are in order.
func (g *gathering) crowded(place []crowd, windows int, chance float64) {
	ns := make([]int, len(place))
	for i := range place {
		ns[i] = place[i].ids
	}
	u := usual(ns, windows)
	seed, edge := max(g.b.o.Campaigns.IDs, crowdOf(u, chance)), max(3, int(clearly*u)+1)
	for i := 0; i < len(place); {
		k, seeded := i, false
		for ; k < len(place) && place[k].ids >= edge && (k == i || place[k].bucket()-place[k-1].bucket() <= 1); k++ {
			seeded = seeded || place[k].ids >= seed
		}
		if seeded {
			g.crowds = append(g.crowds, place[i:k]...)
		}
		i = max(k, i+1)
	}
}

// clearly is how many times as many as usual are clearly more.
const clearly = 4

// usual is how many ids a window of a place holds on most days: the median over
// all windows or, where most are empty, what their share tells of a Poisson
// process. Campaigns are rare, so they hardly move either.
func usual(ns []int, buckets int) float64 {
	if empty := float64(buckets-len(ns)) / float64(buckets); empty > 0.5 {
		return -math.Log(empty)
	}
	slices.Sort(ns)
	return float64(ns[max(0, (buckets-1)/2-(buckets-len(ns)))])
}

// crowdOf is the least number of ids that chance brings together with less than
// this probability, where usual many are expected, and no less than four times
// as many as usual.
func crowdOf(usual, chance float64) int {
	const sigmas = 6
	n := int(clearly*usual) + 1
	if usual > 50 {
		return max(n, int(usual+sigmas*math.Sqrt(usual))+1)
	}
	below, p := 0.0, math.Exp(-usual) // P(N < k), P(N = k)
	for k := range 1000 {
		if 1-below < chance {
			return max(n, k)
		}
		below += p
		p *= usual / float64(k+1)
		if p < 1e-18 && float64(k) > usual {
			return max(n, k+1)
		}
	}
	return max(n, 1000)
}

// member is an id of a campaign with what it did in it.
type member struct {
	e     *entry
	cells []cell
}

func (g *gathering) number(w window) (int, bool) {
	return slices.BinarySearchFunc(g.crowds, w, func(c crowd, w window) int { return cmp.Compare(c.window, w) })
}

func (g *gathering) root(i int) int {
	for g.crowds[i].root != i {
		g.crowds[i].root = g.crowds[g.crowds[i].root].root
		i = g.crowds[i].root
	}
	return i
}

func (g *gathering) unite(i, k int) {
	i, k = g.root(i), g.root(k)
	g.crowds[max(i, k)].root = min(i, k)
}

// join unites the crowded windows and gathers the ids of each union.
func (g *gathering) join() [][]member {
	b := g.b
	// In time: windows of the same jail that touch.
	order := make([]int, len(g.crowds))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(i, k int) int {
		return cmp.Or(cmp.Compare(g.crowds[i].bucket(), g.crowds[k].bucket()), cmp.Compare(i, k))
	})
	last := map[uint32]int{}
	for _, i := range order {
		jail := g.jail(g.crowds[i].window)
		if k, ok := last[jail]; ok && g.crowds[i].bucket()-g.crowds[k].bucket() <= 2 {
			g.unite(i, k)
		}
		last[jail] = i
	}
	// By ids: half of those of the smaller one.
	shared := map[[2]int]int{}
	var ws []window
	g.b.all(func(e *entry) {
		before := -1
		ws = g.windows(ws[:0], g.passing(e), true, true)
		slices.SortFunc(ws, func(x, y window) int { return cmp.Or(cmp.Compare(x.bucket(), y.bucket()), cmp.Compare(x, y)) })
		for _, w := range ws {
			i, ok := g.number(w)
			if !ok {
				continue
			}
			if before >= 0 {
				shared[[2]int{min(before, i), max(before, i)}]++
			}
			before = i
		}
	})
	for pair, n := range shared {
		if 2*n >= min(g.crowds[pair[0]].ids, g.crowds[pair[1]].ids) {
			g.unite(pair[0], pair[1])
		}
	}
	// An id belongs where most of its cells are, if that is at least half of them.
	union := map[int][]member{}
	b.all(func(e *entry) {
		var in map[int][]cell
		for _, c := range g.passing(e) {
			if root := g.rootOf(&c); root >= 0 {
				if in == nil {
					in = map[int][]cell{}
				}
				in[root] = append(in[root], c)
			}
		}
		most := -1
		for root, cells := range in {
			if most < 0 || len(cells) > len(in[most]) || len(cells) == len(in[most]) && root < most {
				most = root
			}
		}
		if most >= 0 && 2*len(in[most]) >= len(e.cells) {
			union[most] = append(union[most], member{e, in[most]})
		}
	})
	out := make([][]member, 0, len(union))
	for _, root := range slices.Sorted(maps.Keys(union)) {
		out = append(out, union[root])
	}
	return out
}

// rootOf is the union that a cell is in, -1 for none.
func (g *gathering) rootOf(c *cell) int {
	place := g.placeRank[c.place]
	for bucket := c.bucket - 1; bucket != c.bucket+1; bucket++ {
		for _, w := range [...]window{windowOf(false, place, bucket), windowOf(true, g.jailAt[place], bucket)} {
			if i, ok := g.number(w); ok {
				return g.root(i)
			}
		}
	}
	return -1
}

func (g *gathering) jail(w window) uint32 {
	place := uint32(w.where()) &^ (1 << 31)
	if w&onFleet != 0 {
		return place
	}
	return g.jailAt[place]
}

func (b *Board) campaign(members []member) Campaign {
	var c Campaign
	networks, hosts, jails := map[string]bool{}, map[uint32]bool{}, map[uint32]bool{}
	started, ended := int64(math.MaxInt64), int64(0)
	for _, m := range members {
		c.IDs = append(c.IDs, m.e.id)
		networks[b.o.neighbourhoodOf(m.e.id)] = true
		for _, x := range m.cells {
			p := &b.places[x.place]
			hosts[p.host], jails[p.jail] = true, true
			c.Failures += int(x.failures)
			c.Bans += int(x.bans)
			at := b.o.Campaigns.start(x.bucket)
			started, ended = min(started, at+int64(x.first)*1000), max(ended, at+int64(x.last)*1000)
		}
	}
	slices.Sort(c.IDs)
	c.Networks, c.Hosts, c.Jails = len(networks), len(hosts), len(jails)
	c.Started, c.Ended = timeOf(started), timeOf(ended)
	return c
}
