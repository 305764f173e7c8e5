package ublk

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"syscall"
	"testing"
	"unsafe"

	"ublkremap/ublk/internal/uapi"
)

func TestParamsRoundTrip(t *testing.T) {
	for _, p := range []Params{
		{Size: 1 << 30, LogicalBlockSize: 512, PhysicalBlockSize: 512, IOMin: 512, IOOpt: 512},
		{
			Size: 4096 * 12345, LogicalBlockSize: 4096, PhysicalBlockSize: 4096, IOMin: 8192,
			IOOpt: 1 << 20, ChunkSize: 1 << 20,
			VirtBoundaryMask: 4095, VolatileCache: true, FUA: true, Rotational: true,
			ReadOnly: true,
			Discard: &DiscardParams{Granularity: 4096, Alignment: 512, MaxDiscard: 1 << 30,
				MaxWriteZeroes: 1 << 20, MaxSegments: 1},
			DMAAlignment: 512,
			Segments:     &SegmentParams{BoundaryMask: 65535, MaxSize: 65536, MaxCount: 128},
		},
	} {
		if err := p.validate(); err != nil {
			t.Fatal(err)
		}
		k := p.encode(1 << 20)
		if k.Len != uint32(unsafe.Sizeof(k)) || k.Basic.MaxSectors != 2048 {
			t.Errorf("length %d, max sectors %d", k.Len, k.Basic.MaxSectors)
		}
		if got := decodeParams(&k); !reflect.DeepEqual(got, p) {
			t.Errorf("got %+v, want %+v", got, p)
		}
	}
}

func TestParamsDefaults(t *testing.T) {
	p := Params{Size: 1 << 20, PhysicalBlockSize: 4096,
		Discard: &DiscardParams{MaxWriteZeroes: 1 << 50}}
	k := p.encode(65536)
	if k.Basic.LogicalBSShift != 9 || k.Basic.PhysicalBSShift != 12 || k.Basic.IOMinShift != 12 ||
		k.Basic.IOOptShift != 12 {
		t.Errorf("shifts: %+v", k.Basic)
	}
	if k.Discard.Granularity != 512 || k.Discard.MaxWriteZeroesSectors != 1<<32-1 ||
		k.Discard.MaxDiscardSegments != 1 {
		t.Errorf("discard: %+v", k.Discard)
	}
}

func TestBadParams(t *testing.T) {
	good := Params{Size: 1 << 20}
	for name, change := range map[string]func(*Params){
		"no size":              func(p *Params) { p.Size = 0 },
		"negative size":        func(p *Params) { p.Size = -512 },
		"odd size":             func(p *Params) { p.Size = 1000 },
		"size of half a block": func(p *Params) { p.Size, p.LogicalBlockSize = 6144, 4096 },
		"odd block size":       func(p *Params) { p.LogicalBlockSize = 520 },
		"huge block size":      func(p *Params) { p.LogicalBlockSize = 1 << 20 },
		"odd best I/O":         func(p *Params) { p.IOOpt = 3000 },
		"odd chunk":            func(p *Params) { p.ChunkSize = 100 },
		"odd DMA alignment":    func(p *Params) { p.DMAAlignment = 3 },
		"empty discard":        func(p *Params) { p.Discard = &DiscardParams{} },
		"negative discard":     func(p *Params) { p.Discard = &DiscardParams{MaxDiscard: -512} },
		"discard segments": func(p *Params) {
			p.Discard = &DiscardParams{MaxDiscard: 512,
				MaxSegments: 2}
		},
		"odd granularity": func(p *Params) {
			p.Discard = &DiscardParams{MaxDiscard: 512,
				Granularity: 100}
		},
		"small segments": func(p *Params) {
			p.Segments = &SegmentParams{BoundaryMask: 4095,
				MaxSize: 512, MaxCount: 1}
		},
		"odd segment boundary": func(p *Params) {
			p.Segments = &SegmentParams{BoundaryMask: 5000,
				MaxSize: 4096, MaxCount: 1}
		},
		"no segments": func(p *Params) {
			p.Segments = &SegmentParams{BoundaryMask: 4095,
				MaxSize: 4096}
		},
	} {
		p := good
		change(&p)
		if p.validate() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	if err := good.validate(); err != nil {
		t.Error(err)
	}
}

func TestBadConfig(t *testing.T) {
	good := Config{Params: Params{Size: 1 << 20}}
	for name, change := range map[string]func(*Config){
		"id":          func(c *Config) { c.ID = -2 },
		"queues":      func(c *Config) { c.Queues = MaxQueues + 1 },
		"depth":       func(c *Config) { c.Depth = MaxDepth + 1 },
		"small maxIO": func(c *Config) { c.MaxIO = 512 },
		"odd maxIO":   func(c *Config) { c.MaxIO = 4097 },
		"large maxIO": func(c *Config) { c.MaxIO = MaxIOBytes + pageSize },
	} {
		c := good
		change(&c)
		c.setDefaults()
		if c.validate() == nil {
			t.Errorf("%s was accepted", name)
		}
	}
	good.setDefaults()
	if err := good.validate(); err != nil {
		t.Error(err)
	}
}

func TestFeaturesOfAConfig(t *testing.T) {
	const (
		old = FeatureIoctlEncode | FeatureRecovery | FeatureRecoveryReissue
		new = old | FeatureZeroCopy | FeatureAutoBufReg | FeatureUpdateSize | FeatureQuiesce
	)
	for _, c := range []struct {
		name      string
		cfg       Config
		have      Features
		want      Features
		lacks     string
		lacksFrom KernelVersion
	}{
		{name: "auto, old", have: old, want: old},
		{name: "auto, new", have: new, want: new},
		{name: "never", cfg: Config{ZeroCopy: Never, Recovery: Never}, have: new,
			want: FeatureIoctlEncode | FeatureUpdateSize},
		{name: "required", cfg: Config{ZeroCopy: Require, Recovery: Require}, have: new, want: new},
		{name: "lacking", cfg: Config{ZeroCopy: Require}, have: old,
			lacks: "automatic buffer registration", lacksFrom: KernelVersion{6, 16, 0}},
		{name: "zero copy without registration", cfg: Config{}, have: old | FeatureZeroCopy,
			want: old},
		{name: "no recovery", cfg: Config{Recovery: Require}, have: FeatureIoctlEncode,
			lacks: "user recovery", lacksFrom: KernelVersion{6, 1, 0}},
	} {
		got, err := c.cfg.features(c.have)
		var u *UnsupportedFeatureError
		if c.lacks == "" {
			if err != nil || got != c.want {
				t.Errorf("%s: %v, %v; want %v", c.name, got, err, c.want)
			}
		} else if !errors.As(err, &u) || u.Name != c.lacks || u.MinimumVersion != c.lacksFrom ||
			!errors.Is(err, ErrNotSupported) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestEveryFeatureHasANameAndAVersion(t *testing.T) {
	var all Features
	for i, f := range AllFeatures() {
		if f.Name == "" || f.Purpose == "" || f.Since.Major < 6 || f.Bit != 1<<i {
			t.Errorf("feature %d: %+v", i, f)
		}
		if i > 13 && f.Since.Compare(AllFeatures()[i-1].Since) < 0 {
			t.Errorf("%s came before its predecessor", f.Name)
		}
		all |= f.Bit
	}
	if all.Has(1<<21) || !all.Has(1<<20) {
		t.Error("not the features of 7.3")
	}
	if got := (FeatureRecovery | 1<<40).String(); got != "user recovery, 0x10000000000" {
		t.Errorf("string: %s", got)
	}
}

func TestKernelVersions(t *testing.T) {
	for s, want := range map[string]KernelVersion{
		"6.12.107+deb13-cloud-amd64": {6, 12, 107},
		"7.3.4+deb13-cloud-amd64":    {7, 3, 4},
		"7.3-rc2":                    {7, 3, 0},
		"6.1.0-38-amd64":             {6, 1, 0},
	} {
		if got, err := ParseKernelVersion(s); err != nil || got != want {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "linux", "6"} {
		if _, err := ParseKernelVersion(s); err == nil {
			t.Errorf("%q was accepted", s)
		}
	}
	if v, err := RunningKernel(); err != nil || v.Major < 4 {
		t.Errorf("running: %v, %v", v, err)
	}
	if got := (KernelVersion{6, 16, 0}).String() + " " +
		(KernelVersion{7, 0, 14}).String(); got != "6.16 7.0.14" {
		t.Error(got)
	}
	for v, n := range map[KernelVersion]int{
		{6, 18, 3}: 0, {6, 18, 4}: 1, {6, 18, 5}: 1, {6, 18, 6}: 0, {6, 18, 40}: 1, {7, 0, 0}: 1,
		{7, 0, 14}: 1, {7, 0, 15}: 0, {7, 3, 4}: 0, {6, 12, 117}: 1,
	} {
		if got := KnownBadKernel(v); len(got) != n {
			t.Errorf("%v: %+v", v, got)
		}
	}
}

func TestCommandErrors(t *testing.T) {
	for errno, want := range map[syscall.Errno]error{
		syscall.ENODEV: ErrNotFound, syscall.EEXIST: ErrExists, syscall.EBUSY: ErrBusy,
		syscall.ETIME:      ErrTimeout,
		syscall.EOPNOTSUPP: ErrNotSupported, syscall.EPERM: os.ErrPermission,
	} {
		err := error(&CommandError{Op: "ADD_DEV", ID: 3, Errno: errno})
		if !errors.Is(err, want) || !errors.Is(err, errno) {
			t.Errorf("%v is not %v", err, want)
		}
	}
	if !errors.Is(&CommandError{Errno: syscall.ETIME}, context.DeadlineExceeded) {
		t.Error("a timeout is no deadline")
	}
}

func TestNodesOfADevice(t *testing.T) {
	for path, want := range map[string]bool{
		"/dev/ublkb3": true, "/dev/ublkb3p1": true, "/dev/ublkc3": true,
		"/dev/ublkb3 (deleted)": true, "/dev/ublkb3p12 (deleted)": true,
		"/dev/ublkb33": false, "/dev/ublkb": false, "/dev/ublk": false, "/dev/ublk-control": false,
		"/dev/ublkx3": false, "/dev/sda3": false, "": false,
	} {
		if belongsTo(path, 3) != want {
			t.Errorf("%q: %v", path, !want)
		}
	}
}

func TestHolders(t *testing.T) {
	root := t.TempDir()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(root, "proc/12/fd"), 0o755))
	must(os.MkdirAll(filepath.Join(root, "proc/13/fd"), 0o755))
	must(os.MkdirAll(filepath.Join(root, "proc/self"), 0o755))
	must(os.MkdirAll(filepath.Join(root, "block/ublkb1/holders/dm-0"), 0o755))
	must(os.WriteFile(filepath.Join(root, "proc/12/comm"), []byte("fio\n"), 0o644))
	must(os.Symlink("/dev/ublkb1", filepath.Join(root, "proc/12/fd/3")))
	must(os.Symlink("/dev/ublkb1", filepath.Join(root, "proc/12/fd/4")))
	must(os.Symlink("/dev/ublkb2", filepath.Join(root, "proc/13/fd/3")))
	must(os.WriteFile(filepath.Join(root, "proc/self/mountinfo"), []byte(
		"22 1 0:5 / /proc rw - proc proc rw\n91 22 259:0 / /mnt/data rw,noatime shared:1 - ext4 "+
			"/dev/ublkb1p1 rw\nnonsense\n"), 0o644))
	// In another mount namespace, which two processes share.
	for _, pid := range []string{"12", "13"} {
		must(os.MkdirAll(filepath.Join(root, "proc", pid, "ns"), 0o755))
		must(os.Symlink("mnt:[7]", filepath.Join(root, "proc", pid, "ns/mnt")))
		must(os.WriteFile(filepath.Join(root, "proc", pid, "mountinfo"),
			[]byte("91 22 259:0 / /inside rw - ext4 /dev/ublkb1p1 rw\n"), 0o644))
	}
	got := holders(1, filepath.Join(root, "proc"), filepath.Join(root, "block"))
	want := []Holder{{PID: 12, Command: "fio", Path: "/dev/ublkb1"}, {Path: "a mount on /mnt/data"},
		{Path: "a mount on /inside"}, {Path: "block device dm-0"}}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("holders: %+v", got)
	}
	err := &HeldOpenError{ID: 1, Holders: got, Err: &CommandError{Op: "DEL_DEV", ID: 1,
		Errno: syscall.ETIME}}
	const text = "ublk: DEL_DEV of device 1: timer expired; it is held by process 12 (fio) with " +
		"/dev/ublkb1, a mount on /mnt/data, a mount on /inside, block device dm-0"
	if err.Error() != text {
		t.Errorf("message: %s", err)
	}
}

func TestDeviceIDs(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"ublkc10", "ublkc2", "ublkb2", "ublkcx", "null"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if ids, err := deviceIDs(dir); err != nil || !reflect.DeepEqual(ids, []int{2, 10}) {
		t.Errorf("%v, %v", ids, err)
	}
}

func TestDeviceInfo(t *testing.T) {
	k := uapi.CtrlDevInfo{NrHWQueues: 2, QueueDepth: 64, State: uapi.StateQuiesced,
		MaxIOBufBytes: 4096, DevID: 5, PID: 77,
		Flags: uapi.FSupportZeroCopy | uapi.FAutoBufReg | uapi.FUserRecovery}
	i := decodeInfo(&k)
	if i.ID != 5 || i.Queues != 2 || i.PID != 77 || !i.ZeroCopy() || i.Recoverable() ||
		i.State.String() != "quiesced" || i.BlockPath() != "/dev/ublkb5" {
		t.Errorf("%+v", i)
	}
	if servable(i) != nil {
		t.Error(servable(i))
	}
	for _, bad := range []Features{FeatureUserCopy, FeatureIntegrity, FeatureZeroCopy} {
		if servable(DeviceInfo{Features: bad}) == nil {
			t.Errorf("a device with %v was accepted", bad)
		}
	}
}
