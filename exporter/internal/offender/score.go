package offender

import (
	"math"
	"slices"
	"time"
)

// Score holds the constants of the score. docs/score.md explains them.
type Score struct {
	// HalfLife is after how long a ban weighs half.
	HalfLife time.Duration
	// ReturnBonus is how much more a ban weighs that comes at the very end of
	// the last one; ReturnHalfLife is after what delay that is half as much.
	ReturnBonus    float64
	ReturnHalfLife time.Duration
	// JailWeights are what a ban weighs by jail, where it is not 1 (or 0 in a
	// recidive jail). Where it weighs 0 it does not count: neither for the
	// score nor as a ban, a host or a jail.
	JailWeights map[string]float64
	// ManualWeight is what an administrator's ban weighs, beside its jail's
	// weight: it is evidence, so it is 1 by default.
	ManualWeight float64
	// HostFactor and JailFactor say how much breadth counts: so many times the
	// binary logarithm of the hosts and the jails.
	HostFactor, JailFactor float64
	// Saturation is the strength that makes a score of 50.
	Saturation float64
}

// DefaultScore is the score as documented.
var DefaultScore = Score{
	HalfLife: 7 * 24 * time.Hour, ReturnBonus: 0.5, ReturnHalfLife: 24 * time.Hour, ManualWeight: 1, HostFactor: 1, JailFactor: 0.5, Saturation: 4,
}

// Parts are what a score is made of.
type Parts struct {
	// Mass is the decayed sum of the bans' weights.
	Mass float64
	// Hosts and Jails are how many there were, each counted as much as its
	// newest ban still does.
	Hosts, Jails float64
	// Strength is the mass times the breadth: what the score is a saturating
	// function of, and what ids are ranked by.
	Strength float64
}

// constants are the score's, made ready.
type constants struct {
	perMilli               float64 // half-lives a millisecond
	bonus, perDelay        float64
	manual                 float64
	host, jail, saturation float64
}

func (s *Score) constants() constants {
	return constants{
		perMilli: 1 / float64(s.HalfLife.Milliseconds()), bonus: s.ReturnBonus, perDelay: 1 / float64(s.ReturnHalfLife),
		manual: s.ManualWeight, host: s.HostFactor, jail: s.JailFactor, saturation: s.Saturation,
	}
}

// weight is what a ban in a jail weighs.
func (o *Options) weight(jail string) float64 {
	if w, ok := o.Score.JailWeights[jail]; ok {
		return w
	}
	if slices.Contains(o.RecidiveJails, jail) {
		return 0
	}
	return 1
}

// decay is what is left of a ban of this age. A ban newer than the time that is
// asked for counts in full.
func (c *constants) decay(age int64) float64 {
	if age <= 0 {
		return 1
	}
	return math.Exp2(-float64(age) * c.perMilli)
}

// rho is how much a ban weighs by how soon the id came back.
func (c *constants) rho(delay time.Duration, returned bool) float64 {
	if !returned {
		return 1
	}
	return 1 + c.bonus*math.Exp2(-float64(max(0, delay))*c.perDelay)
}

// strength is X: the mass times the breadth.
func (c *constants) strength(mass, hosts, jails float64) float64 {
	return mass * (1 + c.host*math.Log2(math.Max(1, hosts)) + c.jail*math.Log2(math.Max(1, jails)))
}

// score maps a strength to 0..100.
func (c *constants) score(strength float64) float64 {
	return 100 * (1 - math.Exp2(-strength/c.saturation))
}

// parts gathers the score of an id, or of a network of ids, as of a time.
type parts struct {
	b         *Board
	now       int64
	mass      float64
	hosts     []float64 // by number, the best g so far
	jails     []float64
	seenHosts []uint32
	seenJails []uint32
}

func (b *Board) newParts(now int64) *parts {
	return &parts{b: b, now: now, hosts: make([]float64, len(b.hosts)), jails: make([]float64, len(b.jails))}
}

// massOf is an id's decayed mass as of now.
func (p *parts) massOf(e *entry) float64 { return e.mass * p.b.c.decay(p.now-e.ban) }

// add takes an id into the sum.
func (p *parts) add(e *entry) {
	p.mass += p.massOf(e)
	for i := range e.visits {
		v := &e.visits[i]
		if v.ban == 0 {
			continue
		}
		g, at := p.b.c.decay(p.now-v.ban), &p.b.places[v.place]
		p.seenHosts = best(p.hosts, p.seenHosts, at.host, g)
		p.seenJails = best(p.jails, p.seenJails, at.jail, g)
	}
}

func best(all []float64, seen []uint32, no uint32, g float64) []uint32 {
	if all[no] == 0 {
		seen = append(seen, no)
		all[no] = math.SmallestNonzeroFloat64 // seen, even where nothing is left of it
	}
	all[no] = math.Max(all[no], g)
	return seen
}

// take gives the sum, with the number of hosts and of jails, and starts anew.
func (p *parts) take() (out Parts, hosts, jails int) {
	hosts, jails = len(p.seenHosts), len(p.seenJails)
	out = Parts{Mass: p.mass, Hosts: drain(p.hosts, p.seenHosts), Jails: drain(p.jails, p.seenJails)}
	out.Strength = p.b.c.strength(out.Mass, out.Hosts, out.Jails)
	p.mass, p.seenHosts, p.seenJails = 0, p.seenHosts[:0], p.seenJails[:0]
	return out, hosts, jails
}

func drain(all []float64, seen []uint32) (sum float64) {
	for _, no := range seen {
		sum += all[no]
		all[no] = 0
	}
	return sum
}

// rounded drops the digits of a strength that depend on the order in which
// facts came, so that ranks do not: 32 binary digits stay.
func rounded(x float64) float64 {
	const drop = 20
	bits := math.Float64bits(x) + 1<<(drop-1)
	return math.Float64frombits(bits &^ (1<<drop - 1))
}
