package offender

import (
	"cmp"
	"math"
	"slices"
	"sort"
	"time"
)

// CampaignOptions say what counts as a campaign. The zero value of a field
// takes its default.
type CampaignOptions struct {
	// Window is how close in time ids attack the same place. Default 10 min.
	Window time.Duration
	// IDs (5) from Networks (3) is how small a campaign may be.
	IDs, Networks int
}

func (o CampaignOptions) withDefaults() CampaignOptions {
	o.Window = cmp.Or(o.Window, 10*time.Minute)
	o.IDs, o.Networks = cmp.Or(o.IDs, 5), cmp.Or(o.Networks, 3)
	return o
}

// bucket is the window that a time falls into, start where one begins.
func (o *CampaignOptions) bucket(at int64) uint32 { return uint32(at / o.Window.Milliseconds()) }

func (o *CampaignOptions) start(bucket uint32) int64 { return int64(bucket) * o.Window.Milliseconds() }

// cell is what an id did in one place in one window.
type cell struct {
	bucket, place  uint32
	failures, bans uint16
	first, last    uint16 // seconds into the window
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

// crowdKey is a cell: a place, or a jail on the whole fleet, in one window.
type crowdKey struct {
	fleet  bool
	place  uint32 // or the jail's number
	bucket uint32
}

type crowdPlace struct {
	fleet bool
	place uint32
}

// Campaigns finds the crowds of the window that ends at now, those of more ids
// first.
//
// A cell (a place in a window of time, and the same for a jail on all hosts
// together) is crowded if it holds far more ids than the place usually sees:
// so many that chance would not bring it about in any cell of the board. Crowded
// cells belong together if they are of one jail and at the same time or in windows
// that follow each other, or if half of the ids of one are in the other. Their ids
// are the campaign, but for those that were busy elsewhere just as much.
func (b *Board) Campaigns(now time.Time, top int) []Campaign {
	from := b.o.Campaigns.bucket(max(0, now.Add(-b.o.Window).UnixMilli()))
	to := b.o.Campaigns.bucket(max(0, now.UnixMilli()))
	crowds, number := b.crowded(from, to)
	if len(crowds) == 0 {
		return nil
	}
	members := b.join(crowds, number, from, to)
	found := newFirst(top, func(x, y Campaign) int {
		return cmp.Or(cmp.Compare(len(y.IDs), len(x.IDs)), cmp.Compare(y.Failures, x.Failures), x.Started.Compare(y.Started), cmp.Compare(x.IDs[0], y.IDs[0]))
	})
	for _, m := range members {
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

// keys calls f for each cell of an id within the buckets, and for each jail on
// the fleet once a bucket.
func (b *Board) keys(e *entry, from, to uint32, f func(crowdKey, *cell)) {
	for i := range e.cells {
		c := &e.cells[i]
		if c.bucket < from || c.bucket > to {
			continue
		}
		f(crowdKey{place: c.place, bucket: c.bucket}, c)
		jail, again := b.places[c.place].jail, false
		for k := i - 1; k >= 0 && e.cells[k].bucket == c.bucket && !again; k-- {
			again = b.places[e.cells[k].place].jail == jail
		}
		if !again {
			f(crowdKey{fleet: true, place: jail, bucket: c.bucket}, c)
		}
	}
}

// crowd is one crowded cell.
type crowd struct {
	crowdKey
	ids  int
	root int // of the union it belongs to
}

// crowded finds the cells with far more ids than usual there.
func (b *Board) crowded(from, to uint32) ([]crowd, map[crowdKey]int) {
	counts := map[crowdKey]int{}
	oldest, newest := uint32(math.MaxUint32), uint32(0)
	b.all(func(e *entry) {
		b.keys(e, from, to, func(k crowdKey, _ *cell) {
			counts[k]++
			oldest, newest = min(oldest, k.bucket), max(newest, k.bucket)
		})
	})
	if len(counts) == 0 {
		return nil, nil
	}
	buckets := int(newest-oldest) + 1
	byPlace := map[crowdPlace][]int{}
	for k, n := range counts {
		p := crowdPlace{k.fleet, k.place}
		byPlace[p] = append(byPlace[p], n)
	}
	chance := 0.01 / (float64(buckets) * float64(len(byPlace)))
	least := make(map[crowdPlace]int, len(byPlace))
	for p, ns := range byPlace {
		least[p] = max(b.o.Campaigns.IDs, crowdOf(usual(ns, buckets), chance))
	}
	var crowds []crowd
	for k, n := range counts {
		if n >= least[crowdPlace{k.fleet, k.place}] {
			crowds = append(crowds, crowd{crowdKey: k, ids: n})
		}
	}
	slices.SortFunc(crowds, func(x, y crowd) int {
		return cmp.Or(cmp.Compare(x.bucket, y.bucket), compareBool(x.fleet, y.fleet), cmp.Compare(x.place, y.place))
	})
	number := make(map[crowdKey]int, len(crowds))
	for i := range crowds {
		crowds[i].root = i
		number[crowds[i].crowdKey] = i
	}
	return crowds, number
}

func compareBool(x, y bool) int {
	switch {
	case x == y:
		return 0
	case y:
		return -1
	}
	return 1
}

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
	n := int(4*usual) + 1
	if usual > 50 {
		return max(n, int(usual+sigmas*math.Sqrt(usual))+1)
	}
	below, p := 0.0, math.Exp(-usual) // P(N < k), P(N = k)
	for k := 0; k < 1000; k++ {
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
	cells []*cell
}

// join unites the crowded cells and gathers the ids of each union.
func (b *Board) join(crowds []crowd, number map[crowdKey]int, from, to uint32) [][]member {
	find := func(i int) int {
		for crowds[i].root != i {
			crowds[i].root = crowds[crowds[i].root].root
			i = crowds[i].root
		}
		return i
	}
	unite := func(i, k int) {
		i, k = find(i), find(k)
		crowds[max(i, k)].root = min(i, k) // the earliest stands for all
	}
	// In time: the same jail in the same window or the next.
	last := map[uint32]int{}
	for i := range crowds {
		jail := b.jailOf(crowds[i].crowdKey)
		if k, ok := last[jail]; ok && crowds[i].bucket-crowds[k].bucket <= 1 {
			unite(i, k)
		}
		last[jail] = i
	}
	// By ids: half of those of the smaller cell.
	shared := map[[2]int]int{}
	b.all(func(e *entry) {
		before := -1
		b.keys(e, from, to, func(k crowdKey, _ *cell) {
			i, ok := number[k]
			if !ok {
				return
			}
			if before >= 0 {
				shared[[2]int{min(before, i), max(before, i)}]++
			}
			before = i
		})
	})
	for pair, n := range shared {
		if 2*n >= min(crowds[pair[0]].ids, crowds[pair[1]].ids) {
			unite(pair[0], pair[1])
		}
	}
	// Ids go where most of their cells are, if that is at least half of them.
	union := map[int][]member{}
	b.all(func(e *entry) {
		in, total := map[int][]*cell{}, 0
		for i := range e.cells {
			c := &e.cells[i]
			if c.bucket < from || c.bucket > to {
				continue
			}
			total++
			k, ok := number[crowdKey{place: c.place, bucket: c.bucket}]
			if !ok {
				k, ok = number[crowdKey{fleet: true, place: b.places[c.place].jail, bucket: c.bucket}]
			}
			if ok {
				in[find(k)] = append(in[find(k)], c)
			}
		}
		root := -1
		for k, cells := range in {
			if root < 0 || len(cells) > len(in[root]) || len(cells) == len(in[root]) && k < root {
				root = k
			}
		}
		if root >= 0 && 2*len(in[root]) >= total {
			union[root] = append(union[root], member{e, in[root]})
		}
	})
	roots := make([]int, 0, len(union))
	for root := range union {
		roots = append(roots, root)
	}
	sort.Ints(roots)
	out := make([][]member, 0, len(roots))
	for _, root := range roots {
		out = append(out, union[root])
	}
	return out
}

func (b *Board) jailOf(k crowdKey) uint32 {
	if k.fleet {
		return k.place
	}
	return b.places[k.place].jail
}

func (b *Board) campaign(members []member) Campaign {
	var c Campaign
	networks, hosts, jails := map[string]bool{}, map[uint32]bool{}, map[uint32]bool{}
	started, ended := int64(math.MaxInt64), int64(0)
	for _, m := range members {
		c.IDs = append(c.IDs, m.e.id)
		networks[b.o.originOf(m.e.id)] = true
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
