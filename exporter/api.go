package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
	"fail2ban-loki-exporter/exporter/internal/offender"
	"fail2ban-loki-exporter/exporter/internal/pipeline"
	"fail2ban-loki-exporter/exporter/internal/publish"

	"github.com/klauspost/compress/gzhttp"
)

// apiPath begins the paths of the API.
const apiPath = "/api/v1/"

// defaultLimit is how many rows the API gives where it is not told.
const defaultLimit = 100

// apiView is the ranking that the API answers from, as of the last read of a
// source. Nobody changes it.
type apiView struct {
	at   time.Time
	rows []offender.Row // the first api.max_offenders
}

// rank makes the ranking that metrics and API show. It is called by the
// goroutine that reads source i, to whom that source's state belongs; where the
// others have ids banned is as of their own last read. While a history is read
// again the last ranking stands.
func (d *daemon) rank(i int, now time.Time) ranked {
	if d.rebuilding() {
		return d.ranked
	}
	top := d.cfg.Metrics.TopOffenders
	r := d.board.Rank(now, max(top+publish.Margin(top), d.cfg.API.MaxOffenders))
	d.banned[i] = d.followers[i].Banned(idsOf(r.Rows))
	for k := range d.banned {
		sayBanned(r.Rows, sourceLabel(d.cfg.Sources[k].Name, len(d.banned)), d.banned[k])
	}
	d.api.Store(&apiView{at: now, rows: r.Rows[:min(len(r.Rows), d.cfg.API.MaxOffenders)]})
	r.Rows = publish.Steady(r.Rows, top, func(o *offender.Row) string { return o.ID }, d.ranked.Rows)
	d.ranked = ranked{r, d.board.Countries()}
	return d.ranked
}

// rebuilding tells whether a history is being read again.
func (d *daemon) rebuilding() bool {
	return slices.ContainsFunc(d.status, func(s pipeline.Status) bool { return s.Rebuilding })
}

// ranked is the ranking as metrics show it.
type ranked struct {
	offender.Ranking
	countries map[string]uint64
}

// addAPI serves the API.
func (d *daemon) addAPI(mux *http.ServeMux, prefix string) {
	for name, answer := range map[string]apiAnswer{
		"offenders": d.apiOffenders, "restores": d.apiRestores, "blocklist": d.apiBlocklist,
	} {
		mux.Handle("GET "+prefix+apiPath+name, gzhttp.GzipHandler(d.apiHandler(answer)))
	}
}

// apiAnswer makes an answer and names its type.
type apiAnswer func(v *apiView, q url.Values) (body []byte, contentType string, err error)

// apiError is an error with the status that tells of it.
type apiError struct {
	status int
	error
}

func (d *daemon) apiHandler(answer apiAnswer) http.Handler {
	return http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		h := rw.Header()
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		v := d.api.Load()
		if v == nil {
			refuse(rw, apiError{http.StatusServiceUnavailable, errors.New("not ready: the past is being read; /-/ready tells more")})
			return
		}
		q, err := url.ParseQuery(r.URL.RawQuery)
		if err != nil {
			refuse(rw, err)
			return
		}
		body, contentType, err := answer(v, q)
		if err != nil {
			refuse(rw, err)
			return
		}
		h.Set("Content-Type", contentType)
		h.Set("Last-Modified", v.at.UTC().Format(http.TimeFormat))
		_, _ = rw.Write(body)
	})
}

// refuse says what was wrong with a request.
func refuse(rw http.ResponseWriter, err error) {
	status := http.StatusBadRequest
	if e, ok := errors.AsType[apiError](err); ok {
		status = e.status
	}
	body, _ := json.Marshal(map[string]string{"error": err.Error()}) // texts cannot fail
	rw.Header().Set("Content-Type", "application/json")
	rw.WriteHeader(status)
	_, _ = rw.Write(append(body, '\n'))
}

// apiQuery is what may be asked of rows.
type apiQuery struct {
	limit              int
	since              time.Time
	host, jail, source string
}

// takes tells whether a place is one that was asked for.
func (q *apiQuery) takes(source, host, jail string) bool {
	return (q.source == "" || q.source == source) && (q.host == "" || q.host == host) && (q.jail == "" || q.jail == jail)
}

// rowParameters are those of rows.
var rowParameters = []string{"limit", "since", "host", "jail", "source"}

func parseAPIQuery(v url.Values, most int) (q apiQuery, err error) {
	if err := known(v, rowParameters); err != nil {
		return q, err
	}
	if q.limit, err = numberOf(v, "limit", min(defaultLimit, most), most); err != nil {
		return q, err
	}
	if q.since, err = parseTime(v.Get("since"), time.Now()); err != nil {
		return q, fmt.Errorf("since: %w", err)
	}
	q.host, q.jail, q.source = v.Get("host"), v.Get("jail"), v.Get("source")
	return q, nil
}

// known refuses what would silently be of no effect.
func known(v url.Values, names []string) error {
	for name, values := range v {
		switch {
		case !slices.Contains(names, name):
			return fmt.Errorf("%q is no parameter; there are %s", name, strings.Join(names, ", "))
		case len(values) > 1:
			return fmt.Errorf("%s: it is given %d times", name, len(values))
		case values[0] == "":
			return fmt.Errorf("%s: it is empty; leave it away", name)
		}
	}
	return nil
}

// numberOf reads a number from 1 on.
func numberOf(v url.Values, name string, usual, most int) (int, error) {
	text := v.Get(name)
	if text == "" {
		return usual, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 || n > most {
		return 0, fmt.Errorf("%s: %q; give a number from 1 to %d", name, text, most)
	}
	return n, nil
}

const jsonType = "application/json"

func (d *daemon) apiOffenders(v *apiView, values url.Values) ([]byte, string, error) {
	q, err := parseAPIQuery(values, d.cfg.API.MaxOffenders)
	if err != nil {
		return nil, "", err
	}
	return d.rows(publish.KindOffenders, func(yield func(publish.Row) bool) {
		for i, n := 0, 0; i < len(v.rows) && n < q.limit; i++ {
			o := &v.rows[i]
			if o.LastSeen.Before(q.since) || !q.concerns(o, d.cfg.Sources[0].Name) {
				continue
			}
			n++
			if !yield(publish.OffenderRow("", o)) {
				return
			}
		}
	}), jsonType, nil
}

// concerns tells whether an id was banned, or is, where it was asked for. only
// is the name of a single source, which places banned now do not tell.
func (q *apiQuery) concerns(o *offender.Row, only string) bool {
	if q.host == "" && q.jail == "" && q.source == "" {
		return true
	}
	in := func(p offender.Place) bool {
		if p.Source == "" {
			p.Source = only
		}
		return q.takes(p.Source, p.Host, p.Jail)
	}
	return slices.ContainsFunc(o.Places, in) || slices.ContainsFunc(o.BannedWhere, in)
}

func (d *daemon) apiRestores(_ *apiView, values url.Values) ([]byte, string, error) {
	q, err := parseAPIQuery(values, d.cfg.API.MaxRestores)
	if err != nil {
		return nil, "", err
	}
	type restore struct {
		source string
		correlate.Restore
	}
	var all []restore
	for i, recent := range d.recent {
		for _, r := range recent.Restores() {
			if source := d.cfg.Sources[i].Name; !r.Time.Before(q.since) && q.takes(source, r.Host, r.Jail) {
				all = append(all, restore{source, r})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b restore) int { return b.Time.Compare(a.Time) })
	return d.rows(publish.KindRestores, func(yield func(publish.Row) bool) {
		for i := range all[:min(len(all), q.limit)] {
			if !yield(publish.RestoreRow(all[i].source, &all[i].Restore)) {
				return
			}
		}
	}), jsonType, nil
}

// rows writes rows as one JSON array, each as `report` writes it.
func (d *daemon) rows(kind string, rows iter.Seq[publish.Row]) []byte {
	var b bytes.Buffer
	_ = publish.WriteJSONArray(&b, publish.Table{Kind: kind, NameSource: len(d.cfg.Sources) > 1, Redact: d.redact.api, Rows: rows}) // memory takes all
	return b.Bytes()
}
