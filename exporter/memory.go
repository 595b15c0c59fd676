package main

import (
	"sync"
	"time"

	"fail2ban-loki-exporter/exporter/internal/correlate"
)

// bound bounds what a source's correlation keeps: its share of
// state.max_tracked_keys, so that no source changes another's numbers.
func (d *daemon) bound(o *correlate.Options, source string) {
	o.MaxKeys = max(1, d.cfg.State.MaxTrackedKeys/len(d.cfg.Sources))
	var once sync.Mutex
	var said time.Time
	o.Forgot = func(keys int) {
		d.self.EvictedKeys.Add(float64(keys))
		once.Lock()
		defer once.Unlock()
		if time.Since(said) < time.Hour {
			return
		}
		said = time.Now()
		d.log.Warn("there are more addresses in jails than are kept: those longest out of sight were forgotten; see state.max_tracked_keys",
			"source_name", source, "forgotten", keys, "kept", o.MaxKeys)
	}
}
