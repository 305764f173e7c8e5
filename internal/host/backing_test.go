package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"ublkremap/internal/control"
	"ublkremap/metadata"
	"ublkremap/test/diskfile"
)

// newSet makes a set of that name on a file.
func newSet(t *testing.T, name string) (path string, sb metadata.Superblock) {
	t.Helper()
	const size = 32 << 20
	path = diskfile.New(t, size)
	d := diskfile.Open(t, path)
	defer d.Close()
	plan, err := metadata.Plan(metadata.PlanParams{BackingSize: size, SpareBytes: 1 << 20,
		BlockSize: 4096, Name: name})
	if err == nil {
		err = metadata.Create([]metadata.Device{d}, plan, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return path, plan.Superblock()
}

// useRuntimeDir gives the test a runtime directory of its own.
func useRuntimeDir(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ur") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	t.Setenv(control.DirEnv, dir)
	if err := control.MakeDir(); err != nil {
		t.Fatal(err)
	}
}

// TestFindBacking: by a path; by a name, at the path in its record, if the set is still there;
// otherwise among all disks, where a regular file is not found.
func TestFindBacking(t *testing.T) {
	useRuntimeDir(t)
	ctx := context.Background()
	path, sb := newSet(t, "one")
	other, _ := newSet(t, "two")
	b, err := FindBacking(ctx, path, "")
	if err != nil || b.Path != path || b.Superblock.UUID != sb.UUID || b.Newest {
		t.Fatalf("%+v, %v", b, err)
	}
	if _, err := FindBacking(ctx, "one", ""); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("a file was found by its name: %v", err)
	}
	record := func(backing string) {
		r := control.Record{Name: "one", UUID: sb.UUID.String(), Device: "/dev/ublkb0",
			Backing: backing}
		if err := r.Write(); err != nil {
			t.Fatal(err)
		}
	}
	record(path)
	if b, err := FindBacking(ctx, "one", ""); err != nil || b.Path != path || b.Newest {
		t.Errorf("by its record: %+v, %v", b, err)
	}
	record(other)
	if _, err := FindBacking(ctx, "one", ""); !errors.Is(err, metadata.ErrNotFound) {
		t.Errorf("another set was taken for it: %v", err)
	}
	if _, err := FindBacking(ctx, "/no/such/disk", ""); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}

// TestNameBeforeFile: a word without a slash is a set's name before it is a file in the working
// directory. With a slash it is a path. If a UUID is given, the set of that name must have it.
func TestNameBeforeFile(t *testing.T) {
	useRuntimeDir(t)
	ctx := context.Background()
	path, sb := newSet(t, "one")
	other, theirs := newSet(t, "two")
	r := control.Record{Name: "one", UUID: sb.UUID.String(), Device: "/dev/ublkb0", Backing: path}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	for _, link := range []string{"one", "three"} {
		if err := os.Symlink(other, link); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := FindBacking(ctx, "one", ""); err != nil || b.Superblock.UUID != sb.UUID {
		t.Errorf("a file was taken for the name: %+v, %v", b, err)
	}
	for _, what := range []string{"./one", "three"} {
		if b, err := FindBacking(ctx, what, ""); err != nil || b.Superblock.UUID != theirs.UUID {
			t.Errorf("%s: %+v, %v", what, b, err)
		}
	}
	if b, err := FindBacking(ctx, "one", sb.UUID.String()); err != nil || b.Path != path {
		t.Errorf("with its UUID: %+v, %v", b, err)
	}
	if _, err := FindBacking(ctx, "one", theirs.UUID.String()); !errors.Is(err,
		metadata.ErrNotFound) {
		t.Errorf("with another UUID: %v", err)
	}
}

// TestDeadServer: the record of a dead server whose device does not exist any more is not a running
// device. Records that cannot be read are reported.
func TestDeadServer(t *testing.T) {
	useRuntimeDir(t)
	ctx := context.Background()
	const id = control.MaxID - 3 // there is no such device
	r := control.Record{Name: "dead", UUID: "u", ID: id, Device: fmt.Sprintf("/dev/ublkb%d", id),
		Backing: "/no/such/disk"}
	if err := r.Write(); err != nil {
		t.Fatal(err)
	}
	var told error
	h := &Host{BadRecords: func(err error) { told = err }}
	if got, err := h.Lookup("dead"); err != nil || got.ID != id {
		t.Errorf("%+v, %v", got, err)
	}
	if all, err := h.Running(); err != nil || len(all) != 0 {
		t.Errorf("%+v, %v", all, err)
	}
	if Active("dead") {
		t.Error("it has neither a device nor a server")
	}
	if st, err := h.StatusOf(ctx, "dead"); err != nil || st.State != control.StateFailed ||
		st.Action == "" {
		t.Errorf("%+v, %v", st, err)
	}
	if err := os.WriteFile(control.RecordPath("bad"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Stop(ctx, "nothing", false); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	if !errors.Is(told, control.ErrRecord) {
		t.Errorf("of a record that cannot be read nothing was said: %v", told)
	}
}
