package set

import (
	"context"
	"errors"
	"os"
	"testing"

	"ublkremap/internal/blockdev"
	"ublkremap/metadata"
	"ublkremap/test/diskfile"
)

// pair makes a set of a backing and a spare device.
func pair(t *testing.T, name string) (backing, spare string) {
	t.Helper()
	backing, spare = diskfile.New(t, 32<<20), diskfile.New(t, 16<<20)
	plan, err := metadata.Plan(metadata.PlanParams{BackingSize: 32 << 20, SpareDeviceSize: 16 << 20,
		SpareBytes: 1 << 20, BlockSize: 4096, Name: name})
	if err != nil {
		t.Fatal(err)
	}
	b, s := diskfile.Open(t, backing), diskfile.Open(t, spare)
	defer b.Close()
	defer s.Close()
	if err := metadata.Create([]metadata.Device{b, s}, plan, nil); err != nil {
		t.Fatal(err)
	}
	return backing, spare
}

func TestOpen(t *testing.T) {
	ctx := context.Background()
	backing, spare := pair(t, "one")
	_, other := pair(t, "two")
	s, err := Open(ctx, backing, []string{spare}, blockdev.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if s.Superblock.Name != "one" || len(s.Devices) != 2 || s.Devices[0].Path() != backing ||
		s.Devices[1].Path() != spare || len(s.Metadata()) != 2 {
		t.Errorf("%+v", s)
	}
	if _, err := metadata.Load(s.Metadata()); err != nil {
		t.Error(err)
	}
	if _, err := Open(ctx, backing, []string{spare}, blockdev.Options{}); !errors.Is(err,
		blockdev.ErrBusy) {
		t.Errorf("opened twice: %v", err)
	}
	// Reading is always possible.
	if sb, err := Identify(ctx, spare); err != nil || sb.DeviceIndex != 1 {
		t.Errorf("%+v, %v", sb, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	blank := diskfile.New(t, 8<<20)
	for _, c := range []struct {
		backing string
		spares  []string
		want    error
	}{
		{spare, nil, metadata.ErrForeign},
		{backing, []string{other}, metadata.ErrForeign},
		{backing, []string{spare, other}, metadata.ErrForeign},
		{backing, []string{backing}, blockdev.ErrBusy},
		{backing, []string{blank}, metadata.ErrNotFound},
		{backing, []string{"/no/such/disk"}, os.ErrNotExist},
		{backing, nil, metadata.ErrNotFound}, // no block device, so a search does not find it
		{blank, nil, metadata.ErrNotFound},
		{diskfile.New(t, 0), nil, metadata.ErrNotFound},
		{diskfile.New(t, 4096), nil, metadata.ErrNotFound},
	} {
		s, err := Open(ctx, c.backing, c.spares, blockdev.Options{})
		if !errors.Is(err, c.want) {
			t.Errorf("%s, %v: %v, want %v", c.backing, c.spares, err, c.want)
		}
		if err == nil {
			s.Close()
		}
	}
	// No device stayed open.
	if s, err = Open(ctx, backing, []string{spare}, blockdev.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestFind(t *testing.T) {
	if _, _, err := Find(context.Background(), "no such set"); !errors.Is(err,
		metadata.ErrNotFound) {
		t.Error(err)
	}
}
