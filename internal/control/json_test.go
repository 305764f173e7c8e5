package control

import (
	"encoding/json"
	"testing"
	"time"
)

// The names that scripts rely on, written out a second time.
const goldenStatus = `{
 "device": "/dev/ublkb3",
 "id": 3,
 "name": "disk",
 "uuid": "u",
 "state": "live",
 "reason": "",
 "action": "",
 "waiting_since": null,
 "created": null,
 "backing": "/dev/sda",
 "missing": [],
 "alerts": [],
 "block_size": 512,
 "size_blocks": 1000,
 "spare": {
  "total": 10,
  "used": 1,
  "free": 9,
  "devices": [
   {
    "device": "/dev/sda",
    "total": 10
   }
  ]
 },
 "remaps": 1,
 "pending": 2,
 "lost": 3,
 "errors": {
  "read": 1,
  "write": 2,
  "flush": 3,
  "transport": 4,
  "failed_fast": 5,
  "not_noted": 6
 },
 "heals": {
  "writes": 1,
  "reads": 2,
  "failed": 3
 },
 "io": {
  "reads": 1,
  "writes": 2,
  "flushes": 3,
  "discards": 4,
  "read_bytes": 5,
  "write_bytes": 6
 },
 "requests": {
  "under_way": 0,
  "most": 128,
  "slow": 0,
  "slow_since": null,
  "slow_last": null
 },
 "metadata": {
  "version": 4,
  "sequence": 77,
  "mirrors": [
   {
    "location": "backing@131072",
    "state": "good"
   }
  ],
  "log_used": 4096,
  "log_size": 262144,
  "bad_superblocks": 0,
  "scrubbed": 0
 },
 "scrub": {
  "state": "idle",
  "position": 0,
  "total": 1000,
  "rate": 0,
  "last_finished": null
 },
 "breaker": {
  "state": "closed",
  "reason": "",
  "kind": ""
 },
 "features": {
  "zero_copy": true,
  "auto_buf_reg": true,
  "batch_io": false,
  "recovery": true
 },
 "error_recovery": [
  {
   "disk": "/dev/sda",
   "limit_s": 7,
   "limit_before_s": 0,
   "kernel_timeout_s": 30,
   "kernel_timeout_before_s": null,
   "note": ""
  }
 ],
 "server_pid": 42
}`

func TestStatusNames(t *testing.T) {
	limit, before := 7.0, 0.0
	s := Status{Device: "/dev/ublkb3", ID: 3, Name: "disk", UUID: "u", State: StateLive,
		Backing: "/dev/sda", Missing: []string{}, Alerts: []Alert{}, BlockSize: 512,
		SizeBlocks: 1000,
		Spare:      Spare{10, 1, 9, []SpareDevice{{"/dev/sda", 10}}},
		Remaps:     1, Pending: 2, Lost: 3,
		Errors: Errors{1, 2, 3, 4, 5, 6}, Heals: Heals{1, 2, 3}, IO: IO{1, 2, 3, 4, 5, 6},
		Requests: Requests{Most: 128},
		Metadata: Metadata{4, 77, []Mirror{{"backing@131072", "good"}}, 4096, 262144, 0, 0},
		Scrub:    Scrub{State: "idle", Total: 1000},
		Breaker:  Breaker{State: "closed"}, Features: Features{true, true, false, true},
		ErrorRecovery: []Drive{{Disk: "/dev/sda", LimitS: &limit, BeforeS: &before, KernelS: 30}},
		ServerPID:     42}
	check(t, s, goldenStatus)
	finished := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	check(t, Scrub{LastFinished: &finished}, `{
 "state": "",
 "position": 0,
 "total": 0,
 "rate": 0,
 "last_finished": "2026-01-02T03:04:05Z"
}`)
}

func TestRemapNames(t *testing.T) {
	spare := uint64(16)
	check(t, []Remap{
		{Block: 8, Count: 2, Spare: &spare, State: "mapped", Cause: "write",
			Time: "2026-01-02T03:04:05Z"},
		{Block: 9, Count: 1, State: "lost", Cause: "unknown", Time: "t"},
	}, `[
 {
  "block": 8,
  "count": 2,
  "spare": 16,
  "state": "mapped",
  "cause": "write",
  "time": "2026-01-02T03:04:05Z"
 },
 {
  "block": 9,
  "count": 1,
  "spare": null,
  "state": "lost",
  "cause": "unknown",
  "time": "t"
 }
]`)
}

func TestListNames(t *testing.T) {
	check(t, Item{"/dev/ublkb0", 0, "disk", "u", StateFailed, "/dev/sda", 0}, `{
 "device": "/dev/ublkb0",
 "id": 0,
 "name": "disk",
 "uuid": "u",
 "state": "failed",
 "backing": "/dev/sda",
 "server_pid": 0
}`)
}

func check(t *testing.T, v any, want string) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	if string(got) != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
