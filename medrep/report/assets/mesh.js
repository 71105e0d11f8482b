"use strict";
VIEWS.mesh = (about, arrays, views, controls) => {
  const { step, vertices } = about, { base, faces, changes } = arrays, most = Math.max(0.05, largest());
  const canvas = element("canvas", { role: "img", tabIndex: 0,
    "aria-label": "the organ, turning; drag or use the arrow keys to turn it, colour says how far its surface moved" });
  views.classList.add("mesh");
  views.style.display = "block";
  views.append(canvas);
  const renderer = new THREE.WebGLRenderer({ canvas, antialias: true, preserveDrawingBuffer: true });
  renderer.setClearColor(0x20242a);
  const scene = new THREE.Scene(), geometry = new THREE.BufferGeometry(), ghost = new THREE.BufferGeometry();
  const position = new THREE.BufferAttribute(new Float32Array(base), 3), colours = new THREE.BufferAttribute(new Float32Array(3 * vertices), 3);
  geometry.setAttribute("position", position);
  geometry.setAttribute("color", colours);
  geometry.setIndex(new THREE.BufferAttribute(faces, 1));
  ghost.setAttribute("position", new THREE.BufferAttribute(base, 3));
  ghost.setIndex(new THREE.BufferAttribute(faces, 1));
  ghost.computeVertexNormals();
  const normals = ghost.getAttribute("normal").array;
  scene.add(new THREE.Mesh(geometry, new THREE.MeshLambertMaterial({ vertexColors: true, side: THREE.DoubleSide })));
  const original = new THREE.Mesh(ghost, new THREE.MeshLambertMaterial({ color: 0xffffff, wireframe: true, transparent: true, opacity: 0.12 }));
  original.visible = false;
  scene.add(original, new THREE.HemisphereLight(0xffffff, 0x777777, 2.2));
  const lamp = new THREE.DirectionalLight(0xffffff, 1.6);
  scene.add(lamp);
  ghost.computeBoundingSphere();
  const size = ghost.boundingSphere.radius, camera = new THREE.PerspectiveCamera(35, 1, size / 50, size * 50);
  camera.up.set(0, 0, 1);
  camera.position.set(-2.7 * size, 0.5 * size, 0.9 * size);
  const orbit = new THREE.OrbitControls(camera, canvas);
  orbit.target.copy(ghost.boundingSphere.center);
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const turning = element("input", { type: "checkbox", checked: !still }), outline = element("input", { type: "checkbox",
    onchange: () => { original.visible = outline.checked; } });
  controls.append(element("label", {}, turning, " turning"), element("label", {}, outline, " the person as they are, as a net"),
    legend(most, "mm outward"));
  canvas.addEventListener("keydown", (event) => {
    const turn = { ArrowLeft: [0.15, 0], ArrowRight: [-0.15, 0], ArrowUp: [0, -0.15], ArrowDown: [0, 0.15] }[event.key];
    if (!turn) return;
    event.preventDefault();
    turning.checked = false;
    rotate(...turn);
  });
  const rotate = (around, over) => {
    const from = camera.position.clone().sub(orbit.target), length = from.length();
    const angle = Math.atan2(from.y, from.x) + around, height = Math.max(-1.5, Math.min(1.5, Math.asin(from.z / length) - over));
    camera.position.set(Math.cos(angle) * Math.cos(height), Math.sin(angle) * Math.cos(height), Math.sin(height)).multiplyScalar(length).add(orbit.target);
  };
  function largest() {
    let found = 0;
    for (let k = 0; k < changes.length; k++) found = Math.max(found, Math.abs(changes[k]));
    return found * step;
  }
  let seen = true;
  new IntersectionObserver((entries) => { seen = entries[0].isIntersecting; }).observe(canvas);
  const frame = () => {
    requestAnimationFrame(frame);
    if (!seen) return;
    const wide = canvas.clientWidth, tall = canvas.clientHeight;
    if (canvas.width !== wide || canvas.height !== tall) {
      renderer.setSize(wide, tall, false);
      camera.aspect = wide / tall;
      camera.updateProjectionMatrix();
    }
    if (turning.checked) rotate(0.008, 0);
    orbit.update();
    lamp.position.copy(camera.position);
    renderer.render(scene, camera);
  };
  requestAnimationFrame(frame);
  return (number) => {
    const start = 3 * vertices * number;
    for (let v = 0; v < vertices; v++) {
      let outward = 0;
      for (let c = 0; c < 3; c++) {
        const moved = changes[start + 3 * v + c] * step;
        position.array[3 * v + c] = base[3 * v + c] + moved;
        outward += moved * normals[3 * v + c];
      }
      const tint = diverging(outward / most);
      for (let c = 0; c < 3; c++) colours.array[3 * v + c] = (tint[c] / 255) ** 2.2;
    }
    position.needsUpdate = colours.needsUpdate = true;
    geometry.computeVertexNormals();
  };
};
