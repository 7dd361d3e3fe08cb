"use strict";
const { layers, labels } = JSON.parse(document.getElementById("found").textContent);
const by = (id) => document.getElementById(id);
const all = (selector) => [...document.querySelectorAll(selector)];
const [video, time, play, clock] = ["video", "time", "play", "clock"].map(by);
const over = by("layers"), copies = all("canvas[data-copy]");
let heard = null; // the sound that is heard in place of the video's own

for (const layer of layers) {
  layer.image = new Image();
  layer.image.onload = draw;
  layer.image.src = layer.src;
}

function paint(context, layer) {
  if (!layer.image.complete) return;
  const { width, height } = context.canvas, times = layer.times;
  let before = 0;
  while (before + 1 < times.length && times[before + 1] <= video.currentTime) before++;
  const after = Math.min(before + 1, times.length - 1);
  const gap = times[after] - times[before];
  const share = gap ? Math.min(1, Math.max(0, (video.currentTime - times[before]) / gap)) : 0;
  const tile = (k, alpha) => {
    context.globalAlpha = alpha;
    const x = (k % layer.across) * (layer.columns + 2) + 1;
    const y = Math.floor(k / layer.across) * (layer.rows + 2) + 1;
    context.drawImage(layer.image, x, y, layer.columns, layer.rows, 0, 0, width, height);
  };
  context.imageSmoothingEnabled = layer.smooth;
  if (layer.smooth) {
    tile(before, 1 - share);
    tile(after, share);
  } else tile(share < 0.5 ? before : after, 1);
  context.globalAlpha = 1;
}

function label(windows) {
  const distance = (one) => Math.abs((one.start + one.end) / 2 - video.currentTime);
  return windows.reduce((best, one) => (distance(one) < distance(best) ? one : best)).text;
}

function draw() {
  if (!video.videoWidth) return;
  for (const canvas of [over, ...copies]) {
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, canvas.width, canvas.height);
    if (canvas !== over) {
      context.drawImage(video, 0, 0, canvas.width, canvas.height);
      paint(context, layers[canvas.dataset.copy]);
    }
  }
  for (const box of all("input[data-layer]:checked")) paint(over.getContext("2d"), layers[box.dataset.layer]);
  by("label").textContent = all("input[data-labels]:checked").map((box) => label(labels[box.dataset.labels])).join("; ");
  const said = `${video.currentTime.toFixed(1)} of ${video.duration.toFixed(1)} s`;
  clock.textContent = said;
  time.value = video.currentTime;
  time.setAttribute("aria-valuetext", said);
  if (by("cursor")) by("cursor").style.left = `${(100 * video.currentTime) / video.duration}%`;
}

function follow() {
  draw();
  if (heard && !video.ended && Math.abs(heard.currentTime - video.currentTime) > 0.15) heard.currentTime = video.currentTime;
  if (!video.paused) requestAnimationFrame(follow);
}

function start(media) {
  media.play().catch((error) => {
    if (error.name !== "AbortError") throw error; // paused before it began: as it was asked to
  });
}

function listen() {
  video.muted = Boolean(heard);
  if (!heard) return;
  heard.currentTime = video.currentTime;
  if (!video.paused) start(heard);
}

video.onloadeddata = () => {
  time.max = video.duration;
  for (const canvas of [over, ...copies]) [canvas.width, canvas.height] = [video.videoWidth, video.videoHeight];
  draw();
};
video.onerror = () => (by("label").textContent = "This browser cannot play the video.");
video.onplay = () => {
  play.textContent = "Pause";
  listen();
  follow();
};
video.onpause = () => {
  play.textContent = "Play";
  heard?.pause();
};
video.onseeked = () => {
  listen();
  draw();
};
play.onclick = () => (video.paused ? start(video) : video.pause());
time.oninput = () => (video.currentTime = Number(time.value));
by("spectrogram")?.addEventListener("click", (event) => {
  video.currentTime = (video.duration * event.offsetX) / event.currentTarget.clientWidth;
});
for (const box of all("input[data-layer], input[data-labels]")) box.onchange = draw;
by("strength")?.addEventListener("input", (event) => (over.style.opacity = event.target.value));
for (const radio of all("input[name=heard]")) {
  radio.onchange = () => {
    heard?.pause();
    heard = radio.value ? by(radio.value) : null;
    listen();
  };
}
