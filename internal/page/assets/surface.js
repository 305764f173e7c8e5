// Draws the map of a disk's surface into figure.surface.
export function mount(element) {
	element.addEventListener("ublk-remap:status", (event) => {
		const status = event.detail.status;
		if (status) element.dataset.remaps = status.remaps;
	});
}
