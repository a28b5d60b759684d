"use strict";
// Shows the mesh of the JSON block in the canvas, with the picture of the page as its texture.

const VERTEX = `#version 300 es
in vec3 position; in vec3 normal; in vec2 uv;
uniform mat3 turn; uniform float distance; uniform vec2 scale;
out vec3 toCamera, facing; out vec2 place;
void main() {
  vec3 at = turn * position;
  facing = turn * normal; place = uv; toCamera = vec3(0.0, 0.0, distance) - at;
  float depth = distance - at.z, near = 0.05, far = distance + 2.0;
  gl_Position = vec4(at.xy * scale, ((far + near) * depth - 2.0 * far * near) / (far - near), depth);
}`;
const FRAGMENT = `#version 300 es
precision highp float;
in vec3 toCamera, facing; in vec2 place;
uniform sampler2D colours; uniform vec3 light; uniform float shade;
out vec4 colour;
void main() {
  // Both sides are painted: the one that is seen is lit as if it were the outer one.
  vec3 outward = length(facing) > 0.0 ? normalize(facing) : vec3(0.0);
  outward *= sign(dot(outward, toCamera));
  float lit = shade + (1.0 - shade) * max(dot(outward, light), 0.0);
  colour = vec4(texture(colours, place).rgb * lit, 1.0);
}`;
const FOV = 40 * Math.PI / 180;
const START = { yaw: -0.5, pitch: 0.3, distance: 3.5 };

const byId = name => document.getElementById(name);
const canvas = byId("canvas"), hint = byId("hint");

function bytes(text) {
  const plain = atob(text), array = new Uint8Array(plain.length);
  for (let i = 0; i < plain.length; i++) array[i] = plain.charCodeAt(i);
  return array;
}

function compiled(gl) {
  const program = gl.createProgram();
  for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX], [gl.FRAGMENT_SHADER, FRAGMENT]]) {
    const shader = gl.createShader(kind);
    gl.shaderSource(shader, source);
    gl.compileShader(shader);
    gl.attachShader(program, shader);
  }
  gl.linkProgram(program);
  if (!gl.getProgramParameter(program, gl.LINK_STATUS)) throw new Error(gl.getProgramInfoLog(program) || "no shaders");
  return program;
}

function textured(gl, image) {
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.pixelStorei(gl.UNPACK_FLIP_Y_WEBGL, true);
  gl.pixelStorei(gl.UNPACK_COLORSPACE_CONVERSION_WEBGL, gl.NONE);
  const most = gl.getParameter(gl.MAX_TEXTURE_SIZE), part = most / Math.max(image.naturalWidth, image.naturalHeight);
  let source = image;
  if (part < 1) {
    source = document.createElement("canvas");
    source.width = Math.floor(image.naturalWidth * part);
    source.height = Math.floor(image.naturalHeight * part);
    source.getContext("2d").drawImage(image, 0, 0, source.width, source.height);
  }
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, source);
  gl.generateMipmap(gl.TEXTURE_2D);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_MIN_FILTER, gl.LINEAR_MIPMAP_LINEAR);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_S, gl.CLAMP_TO_EDGE);
  gl.texParameteri(gl.TEXTURE_2D, gl.TEXTURE_WRAP_T, gl.CLAMP_TO_EDGE);
  const finer = gl.getExtension("EXT_texture_filter_anisotropic");
  if (finer) gl.texParameteri(gl.TEXTURE_2D, finer.TEXTURE_MAX_ANISOTROPY_EXT, 4);
}

function filled(gl, program, mesh) {
  const attribute = (name, size, kind, normalized) => {
    gl.bindBuffer(gl.ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ARRAY_BUFFER, bytes(mesh[name]), gl.STATIC_DRAW);
    const at = gl.getAttribLocation(program, name);
    gl.enableVertexAttribArray(at);
    gl.vertexAttribPointer(at, size, kind, normalized, name === "normal" ? 4 : 0, 0);
  };
  attribute("position", 3, gl.FLOAT, false);
  attribute("normal", 3, gl.BYTE, true);
  attribute("uv", 2, gl.UNSIGNED_SHORT, true);
  const index = bytes(mesh.index);
  gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
  gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, index, gl.STATIC_DRAW);
  return index.length / 4;
}

function start(gl, image) {
  const mesh = JSON.parse(byId("mesh").textContent);
  const program = compiled(gl);
  gl.useProgram(program);
  const count = filled(gl, program, mesh);
  textured(gl, image);
  gl.enable(gl.DEPTH_TEST);
  const uniform = name => gl.getUniformLocation(program, name);
  const norm = Math.hypot(...mesh.light);
  gl.uniform3fv(uniform("light"), mesh.light.map(part => part / norm));

  const view = { ...START }, state = { turning: !matchMedia("(prefers-reduced-motion: reduce)").matches, lit: true };
  let asked = false, before = 0;

  function draw(now) {
    asked = false;
    if (state.turning) {
      view.yaw -= Math.min(now - before, 100) * 0.0005;
      before = now;
      ask();
    }
    const ratio = Math.min(devicePixelRatio || 1, 2);
    const width = Math.max(1, Math.round(canvas.clientWidth * ratio));
    const height = Math.max(1, Math.round(canvas.clientHeight * ratio));
    if (canvas.width !== width || canvas.height !== height) { canvas.width = width; canvas.height = height; }
    gl.viewport(0, 0, width, height);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    const [cy, sy, cp, sp] = [Math.cos(view.yaw), Math.sin(view.yaw), Math.cos(view.pitch), Math.sin(view.pitch)];
    // About the mesh's own axis first, then towards the camera; column by column.
    gl.uniformMatrix3fv(uniform("turn"), false, [cy, sp * sy, -cp * sy, 0, cp, sp, sy, -sp * cy, cp * cy]);
    gl.uniform1f(uniform("distance"), view.distance);
    const focal = Math.min(width, height) / Math.tan(FOV / 2);
    gl.uniform2f(uniform("scale"), focal / width, focal / height);
    gl.uniform1f(uniform("shade"), state.lit ? mesh.shade : 1);
    gl.drawElements(gl.TRIANGLES, count, gl.UNSIGNED_INT, 0);
  }

  function ask() {
    if (!asked) { asked = true; requestAnimationFrame(draw); }
  }

  function set(changes) {
    if (changes.turning && !state.turning) before = performance.now();
    Object.assign(state, changes);
    byId("turn").setAttribute("aria-pressed", state.turning);
    byId("light").setAttribute("aria-pressed", state.lit);
    ask();
  }

  function orbit(yaw, pitch) {
    view.yaw += yaw;
    view.pitch = Math.max(-1.5, Math.min(1.5, view.pitch + pitch));
    set({ turning: false });
  }

  function zoom(factor) {
    view.distance = Math.max(1.15, Math.min(12, view.distance * factor));
    set({ turning: false });
  }

  const fingers = new Map();
  canvas.addEventListener("pointerdown", event => {
    canvas.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, event);
    set({ turning: false });
  });
  canvas.addEventListener("pointermove", event => {
    const last = fingers.get(event.pointerId);
    if (!last) return;
    fingers.set(event.pointerId, event);
    if (fingers.size === 1) {
      orbit((event.clientX - last.clientX) * 0.008, (event.clientY - last.clientY) * 0.008);
    } else {
      const [other] = [...fingers.values()].filter(finger => finger.pointerId !== event.pointerId);
      const apart = finger => Math.hypot(finger.clientX - other.clientX, finger.clientY - other.clientY) || 1;
      zoom(apart(last) / apart(event));
    }
  });
  for (const end of ["pointerup", "pointercancel"]) {
    canvas.addEventListener(end, event => fingers.delete(event.pointerId));
  }
  canvas.addEventListener("wheel", event => {
    // Until the mesh is clicked the page scrolls on, as it does elsewhere.
    if (document.activeElement !== canvas && !event.ctrlKey) return;
    event.preventDefault();
    zoom(Math.exp(Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) * 0.0015));
  }, { passive: false });
  canvas.addEventListener("keydown", event => {
    const moves = {
      ArrowLeft: () => orbit(-0.1, 0), ArrowRight: () => orbit(0.1, 0), ArrowUp: () => orbit(0, -0.1),
      ArrowDown: () => orbit(0, 0.1), "+": () => zoom(0.9), "=": () => zoom(0.9), "-": () => zoom(1.1),
    };
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moves[event.key]();
  });
  byId("turn").addEventListener("click", () => set({ turning: !state.turning }));
  byId("light").addEventListener("click", () => set({ lit: !state.lit }));
  byId("reset").addEventListener("click", () => { Object.assign(view, START); set({ turning: false }); });
  new ResizeObserver(ask).observe(canvas);
  before = performance.now();
  set({});
}

function show(works) {
  canvas.hidden = byId("tools").hidden = !works;
  byId("still").hidden = works;
  hint.textContent = works
    ? "Drag to turn. Click, then scroll to zoom; arrow keys and + and \u2212 work too."
    : "This browser shows no WebGL, so this is a picture: the GLB file holds the mesh itself.";
}

// As a blob, because browsers bound the length of the addresses that they follow.
byId("glb").addEventListener("click", event => {
  const link = event.currentTarget;
  if (link.href.startsWith("data:")) {
    const data = bytes(link.href.slice(link.href.indexOf(",") + 1));
    link.href = URL.createObjectURL(new Blob([data], { type: "model/gltf-binary" }));
  }
});

const image = byId("texture");
image.decode().then(() => {
  const gl = canvas.getContext("webgl2", { antialias: true });
  if (!gl) { show(false); return; }
  canvas.addEventListener("webglcontextlost", () => show(false));
  show(true);
  start(gl, image);
}).catch(error => { show(false); console.error(error); });
